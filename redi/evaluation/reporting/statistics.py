"""Pass@1, pass@k and their errors, and all numbers of the report, as `table.json` holds them.

Throughout, `correct` is a (P, n) array: problem by sample index, 0 or 1.
"""

import math
from typing import Any

import numpy as np

from redi.evaluation.benchmarks import SECOND_GOLDS
from redi.evaluation.reporting.scores import PROTOCOL, GradedFolder, Scores

DRAWS = 10_000


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
    means, errors = zip(*values, strict=True)
    return sum(means) / len(means), math.sqrt(sum(error**2 for error in errors)) / len(errors)


def paired_difference(ours: list[np.ndarray], baseline: list[np.ndarray]) -> dict[str, float]:
    """The difference in pass@1 on the same problems, ours - baseline, and its 95 % bootstrap interval.

    Both hold an array (P, n) for each benchmark, with the problems in the same order. The difference is that of the
    benchmarks' averages; each benchmark has independent draws. Against zeros, it is pass@1 itself: the interval is
    wider than the standard error, because it includes the noise of choosing problems.
    """
    pairs = list(zip(ours, baseline, strict=True))
    draws = np.mean([draw_differences(*pair, seed=seed) for seed, pair in enumerate(pairs)], axis=0)
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return {"mean": float(np.mean([one.mean() - other.mean() for one, other in pairs])), "low": low, "high": high}


def draw_differences(ours: np.ndarray, baseline: np.ndarray, seed: int) -> np.ndarray:
    """Two-level bootstrap draws of the difference in pass@1.

    Problems are drawn with replacement, then sample indices within each problem. Both models get the same draws, so
    equal inputs never differ. Returns the differences ours - baseline, (DRAWS,).
    """
    if ours.shape != baseline.shape:
        raise ValueError(f"{ours.shape} problems and samples against {baseline.shape}")
    num_problems, num_samples = ours.shape
    gains = np.stack([(ours > baseline).mean(axis=1), (ours < baseline).mean(axis=1)], axis=1)  # shares of +1 and -1
    # Problems with the same shares (G kinds) are interchangeable: only how often each kind is drawn matters.
    kinds, counts = np.unique(gains, axis=0, return_counts=True)
    up, down = kinds.T  # (G,)
    rng = np.random.default_rng(seed)
    trials = num_samples * rng.multinomial(num_problems, counts / num_problems, size=DRAWS)  # (DRAWS, G)
    num_up = rng.binomial(trials, up)
    num_down = rng.binomial(trials - num_up, np.minimum(1, down / np.where(up < 1, 1 - up, 1)))
    return (num_up - num_down).sum(axis=1) / (num_problems * num_samples)


def summarize(folders: list[GradedFolder], baselines: list[GradedFolder], benchmarks: list[str]) -> dict[str, Any]:
    """All numbers of the report, on the benchmarks that all folders have. Shares are between 0 and 1.

    The protocol has a list of values for an option that differs, and nothing for one that no folder records.
    """
    # The same problems with second reference answers do not count twice in the average.
    averaged = [name for name in benchmarks if SECOND_GOLDS.get(name) not in benchmarks]
    values = {key: list(dict.fromkeys(folder.protocol.get(key) for folder in folders)) for key in PROTOCOL}
    left_out = {folder.name: [name for name in folder.scores if name not in benchmarks] for folder in folders}
    whole = {folder.name: _whole_responses(folder.grading) for folder in folders}
    return {
        "protocol": {key: v if len(v) > 1 else v[0] for key, v in values.items() if v != [None]},
        "averaged": averaged,
        "baselines": [baseline.name for baseline in baselines],
        "left_out": {name: found for name, found in left_out.items() if found},
        "graders": {folder.name: _grader(folder.grading) for folder in folders},
        "whole_responses": {name: reason for name, reason in whole.items() if reason},
        "rows": [_row(folder, baselines, benchmarks, averaged) for folder in folders],
    }


def _grader(grading: dict[str, Any]) -> str | None:
    """The grader's revision, and the versions of what it compared with; None if not recorded."""
    packages = [f"{name} {version}" for name, version in grading.get("packages", {}).items()]
    return ", ".join(filter(None, [grading.get("git_revision"), *packages])) or None


def _whole_responses(grading: dict[str, Any]) -> str | None:
    """Why responses without `</think>` were graded; None if they were not."""
    if grading.get("whole_responses"):
        return "--whole-responses"
    return "the prompt closes the thought" if grading.get("thoughts_closed_by_prompt") else None


def _row(
    folder: GradedFolder, baselines: list[GradedFolder], benchmarks: list[str], averaged: list[str]
) -> dict[str, Any]:
    others = [baseline for baseline in baselines if baseline is not folder]

    def differences(names: list[str]) -> dict[str, dict[str, float]]:
        ours, *theirs = ([each.scores[name].correct for name in names] for each in (folder, *others))
        return {other.name: paired_difference(ours, arrays) for other, arrays in zip(others, theirs, strict=True)}

    cells = {name: summarize_scores(folder.scores[name]) | {"differences": differences([name])} for name in benchmarks}
    mean, sem = mean_of_benchmarks([(cells[name]["pass_at_1"], cells[name]["sem"]) for name in averaged])
    return {
        "name": folder.name,
        "average": {"pass_at_1": mean, "sem": sem},
        "average_differences": differences(averaged),
        "benchmarks": cells,
    }


def summarize_scores(scores: Scores) -> dict[str, Any]:
    """The numbers of one model on one benchmark; None for those that need responses or second verdicts."""
    correct, second, waits, status = scores.correct, scores.correct_rllm_style, scores.num_waits, scores.status
    mean, sem = pass_at_1(correct)
    over_zero = paired_difference([correct], [np.zeros_like(correct)])
    rllm = None
    if second is not None:
        rllm = dict(zip(("pass_at_1", "sem"), pass_at_1(second), strict=True))
        rllm["disagreement"] = float((second != correct).mean())
    return {
        "num_problems": len(scores.ids),
        "n": correct.shape[1],
        "pass_at_1": mean,
        "sem": sem,
        "low": over_zero["low"],
        "high": over_zero["high"],
        "pass_at_k": {str(k): pass_at_k(correct, k) for k in range(1, correct.shape[1] + 1)},
        "mean_tokens": float(scores.num_tokens.mean()),
        "truncated": float(scores.truncated.mean()),
        "no_answer": float(np.isin(status, ("no_answer", "no_think_end")).mean()),
        "num_timeouts": int((status == "timeout").sum()),
        "num_errors": int((status == "error").sum()),
        "waits_per_response": None if waits is None else float(waits.mean()),
        "waits_per_token": None if waits is None else float(waits.sum() / max(1, scores.num_tokens.sum())),
        "rllm_style": rllm,
    }
