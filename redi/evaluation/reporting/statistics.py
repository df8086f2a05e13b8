"""Pass@1, pass@k and their errors. Throughout, `correct` is a (P, n) array: problem by sample index, 0 or 1."""

import math

import numpy as np


def pass_at_1(correct: np.ndarray) -> tuple[float, float]:
    """Pass@1 and its standard error of the mean as the paper defines them.

    P_j is the mean over problems of sample j; pass@1 is the mean of P_1..P_n and its error std(P_1..P_n) / sqrt(n),
    with the population standard deviation (https://huggingface.co/papers/2505.24850, appendix C.5; ddof=0 as in its
    code). It measures the noise of sampling answers, not of choosing problems.
    """
    per_sample = correct.mean(axis=0)  # (n,)
    return float(per_sample.mean()), float(per_sample.std() / math.sqrt(per_sample.size))


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k), averaged over problems.

    From https://huggingface.co/papers/2107.03374. For k = n it is the fraction of problems with any correct sample.
    """
    num_samples = correct.shape[1]
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples per problem, not {num_samples}")
    total = math.comb(num_samples, k)
    # comb is 0 if fewer than k samples are wrong
    return float(np.mean([1 - math.comb(num_samples - int(c), k) / total for c in correct.sum(axis=1)]))


def mean_of_benchmarks(values: list[tuple[float, float]]) -> tuple[float, float]:
    """The unweighted mean over B benchmarks of (pass@1, SEM), with SEM sqrt(sum of squares) / B."""
    return (
        sum(value for value, _ in values) / len(values),
        math.sqrt(sum(error**2 for _, error in values)) / len(values),
    )


DRAWS = 10_000


def interval(correct: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of pass@1, over problems and over samples within problems.

    Wider than the standard error suggests, because it includes the noise of choosing problems.
    """
    return limits(draw_differences(correct, np.zeros_like(correct)))


def paired_difference(ours: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """The difference in pass@1 on the same problems, ours - baseline, and its 95 % bootstrap interval.

    Args:
        ours: (P, n).
        baseline: (P, n), with the problems in the same order.
    """
    return float(ours.mean() - baseline.mean()), *limits(draw_differences(ours, baseline))


def limits(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentiles."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def draw_differences(ours: np.ndarray, baseline: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Two-level bootstrap draws of the difference in pass@1.

    Problems are drawn with replacement, then sample indices within each problem. Both models get the same draws, so
    equal inputs never differ.

    Returns:
        (draws,) differences ours - baseline.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"{ours.shape} problems and samples against {baseline.shape}")
    num_problems, num_samples = ours.shape
    gains = np.stack([(ours > baseline).mean(axis=1), (ours < baseline).mean(axis=1)], axis=1)  # shares of +1 and -1
    # Problems with the same shares (G kinds) are interchangeable: only how often each kind is drawn matters.
    kinds, counts = np.unique(gains, axis=0, return_counts=True)
    up, down = kinds.T  # (G,)
    rng = np.random.default_rng(seed)
    trials = num_samples * rng.multinomial(num_problems, counts / num_problems, size=draws)  # (draws, G)
    num_up = rng.binomial(trials, up)
    num_down = rng.binomial(trials - num_up, np.minimum(1, down / np.where(up < 1, 1 - up, 1)))
    return (num_up - num_down).sum(axis=1) / (num_problems * num_samples)
