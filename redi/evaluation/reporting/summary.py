"""The report's numbers: pass@1, pass@k, intervals, differences and lengths, as `table.json` holds them."""

from typing import Any

import numpy as np

from redi.evaluation.benchmarks import SECOND_GOLDS
from redi.evaluation.reporting.scores import PROTOCOL, GradedFolder, Scores
from redi.evaluation.reporting.statistics import (
    draw_differences,
    interval,
    limits,
    mean_of_benchmarks,
    paired_difference,
    pass_at_1,
    pass_at_k,
)


def summarize(folders: list[GradedFolder], baselines: list[GradedFolder], benchmarks: list[str]) -> dict[str, Any]:
    """All numbers of the report, on the benchmarks that all folders have. Shares are between 0 and 1."""
    # The same problems with second reference answers do not count twice in the average.
    averaged = [name for name in benchmarks if SECOND_GOLDS.get(name) not in benchmarks]
    left_out = {folder.name: [name for name in folder.scores if name not in benchmarks] for folder in folders}
    whole = {folder.name: _whole_responses(folder) for folder in folders}
    return {
        "protocol": _common_protocol(folders),
        "averaged": averaged,
        "baselines": [baseline.name for baseline in baselines],
        "left_out": {name: found for name, found in left_out.items() if found},
        "graders": {folder.name: _grader(folder) for folder in folders},
        "whole_responses": {name: reason for name, reason in whole.items() if reason},
        "rows": [_row(folder, baselines, benchmarks, averaged) for folder in folders],
    }


def _common_protocol(folders: list[GradedFolder]) -> dict[str, Any]:
    """The folders' common options, with a list of values for those that differ. Empty if nothing is recorded."""
    common = {}
    for key in PROTOCOL:
        found: list[Any] = []
        for folder in folders:
            if folder.protocol.get(key) not in found:
                found.append(folder.protocol.get(key))
        if found != [None]:
            common[key] = found[0] if len(found) == 1 else found
    return common


def _grader(folder: GradedFolder) -> str | None:
    """The revision that graded a folder, and the versions of what it compared with; None if not recorded."""
    packages = [f"{name} {version}" for name, version in folder.grading.get("packages", {}).items()]
    return ", ".join(filter(None, [folder.grading.get("git_revision"), *packages])) or None


def _whole_responses(folder: GradedFolder) -> str | None:
    """Why responses without `</think>` were graded; None if they were not."""
    if folder.grading.get("whole_responses"):
        return "--whole-responses"
    return "the prompt closes the thought" if folder.grading.get("thoughts_closed_by_prompt") else None


def _row(
    folder: GradedFolder, baselines: list[GradedFolder], benchmarks: list[str], averaged: list[str]
) -> dict[str, Any]:
    others = [baseline for baseline in baselines if baseline is not folder]
    cells = {}
    for name in benchmarks:
        correct = folder.scores[name].correct
        differences = {other.name: _named(paired_difference(correct, other.scores[name].correct)) for other in others}
        cells[name] = summarize_scores(folder.scores[name]) | {"differences": differences}
    mean, sem = mean_of_benchmarks([(cells[name]["pass_at_1"], cells[name]["sem"]) for name in averaged])
    return {
        "name": folder.name,
        "average": {"pass_at_1": mean, "sem": sem},
        "average_differences": {other.name: _average_difference(folder, other, averaged) for other in others},
        "benchmarks": cells,
    }


def _named(difference: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), difference, strict=True))


def _average_difference(folder: GradedFolder, other: GradedFolder, averaged: list[str]) -> dict[str, float]:
    """The difference of the averages. Each benchmark has independent bootstrap draws."""
    pairs = [(folder.scores[name].correct, other.scores[name].correct) for name in averaged]
    draws = np.mean([draw_differences(*pair, seed=seed) for seed, pair in enumerate(pairs)], axis=0)
    return _named((float(np.mean([ours.mean() - base.mean() for ours, base in pairs])), *limits(draws)))


def summarize_scores(scores: Scores) -> dict[str, Any]:
    """The numbers of one model on one benchmark; None for those that need responses or second verdicts."""
    correct, second, waits = scores.correct, scores.correct_rllm_style, scores.num_waits
    mean, sem = pass_at_1(correct)
    low, high = interval(correct)
    rllm = None
    if second is not None:
        rllm = dict(zip(("pass_at_1", "sem"), pass_at_1(second), strict=True))
        rllm["disagreement"] = float((second != correct).mean())
    return {
        "num_problems": len(scores.ids),
        "n": correct.shape[1],
        "pass_at_1": mean,
        "sem": sem,
        "low": low,
        "high": high,
        "pass_at_k": {str(k): pass_at_k(correct, k) for k in range(1, correct.shape[1] + 1)},
        "mean_tokens": float(scores.num_tokens.mean()),
        "truncated": float(scores.truncated.mean()),
        "no_answer": float(scores.no_answer.mean()),
        "num_timeouts": scores.num_timeouts,
        "num_errors": scores.num_errors,
        "waits_per_response": None if waits is None else float(waits.mean()),
        "waits_per_token": None if waits is None else float(waits.sum() / max(1, scores.num_tokens.sum())),
        "rllm_style": rllm,
    }
