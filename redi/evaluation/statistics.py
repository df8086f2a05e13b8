"""Pass@1, pass@k and their errors. Throughout, `correct` is a (P, n) array: problem by sample index, 0 or 1."""

import math

import numpy as np


def pass_at_1(correct: np.ndarray) -> tuple[float, float]:
    """Pass@1 and its standard error of the mean as the paper defines them.

    P_j is the mean over problems of sample j; pass@1 is the mean of P_1..P_n and its error std(P_1..P_n) / sqrt(n),
    with the population's standard deviation (https://huggingface.co/papers/2505.24850, appendix C.5; ddof=0 as in its
    code).
    It measures the noise of sampling answers, not that of choosing problems.
    """
    per_sample = correct.mean(axis=0)  # (n,)
    return float(per_sample.mean()), float(per_sample.std() / math.sqrt(per_sample.size))


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k), averaged over problems.

    From https://huggingface.co/papers/2107.03374; for k = n it is the fraction of problems with any correct sample.
    """
    num_samples = correct.shape[1]
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem, there are {num_samples}")
    total = math.comb(num_samples, k)
    # comb is 0 where fewer than k samples are wrong
    return float(np.mean([1 - math.comb(num_samples - int(c), k) / total for c in correct.sum(axis=1)]))


def mean_of_benchmarks(values: list[tuple[float, float]]) -> tuple[float, float]:
    """The plain mean over benchmarks of (pass@1, SEM), with SEM sqrt(sum of squares) / B."""
    return (
        sum(value for value, _ in values) / len(values),
        math.sqrt(sum(error**2 for _, error in values)) / len(values),
    )


def paired_difference(
    ours: np.ndarray, baseline: np.ndarray, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference in pass@1 on the same problems, with a 95 % bootstrap interval of two levels.

    Problems are drawn with replacement, the same ones for both models, and then sample indices within each problem,
    again the same ones. Equal inputs hence have an interval of no width.

    Args:
        ours: (P, n).
        baseline: (P, n), with the problems in the same order.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        The difference ours - baseline, and its lower and upper limit.
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"{ours.shape} problems and samples against {baseline.shape}")
    num_problems, num_samples = ours.shape
    gains = ((ours > baseline).mean(axis=1), (ours < baseline).mean(axis=1))  # a problem's share of +1 and of -1
    rng = np.random.default_rng(seed)
    differences = np.empty(draws)
    block = max(1, 2_000_000 // num_problems)  # bounds the memory: arrays are (block, P)
    for start in range(0, draws, block):
        problems = rng.integers(num_problems, size=(min(block, draws - start), num_problems))
        up, down = (share[problems] for share in gains)
        num_up = rng.binomial(num_samples, up)
        num_down = rng.binomial(num_samples - num_up, down / np.where(up < 1, 1 - up, 1))
        differences[start : start + len(problems)] = (num_up - num_down).mean(axis=1) / num_samples
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(ours.mean() - baseline.mean()), float(low), float(high)
