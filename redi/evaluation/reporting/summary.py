"""The report's numbers: pass@1, pass@k, intervals, differences and lengths, as `table.json` holds them."""

from typing import Any

import numpy as np

from redi.evaluation.benchmarks import SECOND_GOLDS
from redi.evaluation.reporting.scores import GradedFolder, Scores, common_protocol
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
    return {
        "protocol": common_protocol(folders),
        "averaged": averaged(benchmarks),
        "baselines": [baseline.name for baseline in baselines],
        "left_out": {folder.name: found for folder in folders if (found := _others(folder, benchmarks))},
        "graders": {folder.name: _grader(folder) for folder in folders},
        "whole_responses": {folder.name: found for folder in folders if (found := _whole_responses(folder))},
        "rows": [_row(folder, baselines, benchmarks) for folder in folders],
    }


def _others(folder: GradedFolder, benchmarks: list[str]) -> list[str]:
    return [name for name in folder.scores if name not in benchmarks]


def _grader(folder: GradedFolder) -> str | None:
    """The revision that graded a folder, and the versions of what it compared with; None if not recorded."""
    packages = [f"{name} {version}" for name, version in folder.grading.get("packages", {}).items()]
    return ", ".join(filter(None, [folder.grading.get("git_revision"), *packages])) or None


def _whole_responses(folder: GradedFolder) -> str | None:
    """Why responses without `</think>` were graded; None if they were not."""
    if folder.grading.get("whole_responses"):
        return "--whole-responses"
    return "the prompt closes the thought" if folder.grading.get("thoughts_closed_by_prompt") else None


def averaged(benchmarks: list[str]) -> list[str]:
    """The benchmarks in the average: the same problems with second reference answers do not count twice."""
    return [name for name in benchmarks if SECOND_GOLDS.get(name) not in benchmarks]


def _row(folder: GradedFolder, baselines: list[GradedFolder], names: list[str]) -> dict[str, Any]:
    others = [baseline for baseline in baselines if baseline is not folder]
    benchmarks = {}
    for name in names:
        scores = folder.scores[name]
        differences = {
            other.name: _with_limits(*paired_difference(scores.correct, other.scores[name].correct))
            for other in others
        }
        benchmarks[name] = summarize_scores(scores) | {"differences": differences}
    cells = [benchmarks[name] for name in averaged(list(benchmarks))]
    mean, sem = mean_of_benchmarks([(cell["pass_at_1"], cell["sem"]) for cell in cells])
    return {
        "name": folder.name,
        "average": {"pass_at_1": mean, "sem": sem},
        "average_differences": {other.name: _average_difference(folder, other, names) for other in others},
        "benchmarks": benchmarks,
    }


def _with_limits(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def _average_difference(folder: GradedFolder, other: GradedFolder, names: list[str]) -> dict[str, float]:
    """The difference of the averages. Each benchmark has independent bootstrap draws."""
    pairs = [(folder.scores[name].correct, other.scores[name].correct) for name in averaged(names)]
    draws = np.mean([draw_differences(*pair, seed=seed) for seed, pair in enumerate(pairs)], axis=0)
    return _with_limits(float(np.mean([ours.mean() - base.mean() for ours, base in pairs])), *limits(draws))


def summarize_scores(scores: Scores) -> dict[str, Any]:
    """The numbers of one model on one benchmark."""
    mean, sem = pass_at_1(scores.correct)
    low, high = interval(scores.correct)
    num_samples = scores.correct.shape[1]
    summary = {
        "num_problems": len(scores.ids),
        "n": num_samples,
        "pass_at_1": mean,
        "sem": sem,
        "low": low,
        "high": high,
        "pass_at_k": {str(k): pass_at_k(scores.correct, k) for k in range(1, num_samples + 1)},
        "mean_tokens": float(scores.num_tokens.mean()),
        "truncated": float(scores.truncated.mean()),
        "no_answer": float(scores.no_answer.mean()),
        "num_timeouts": scores.num_timeouts,
        "num_errors": scores.num_errors,
        "waits_per_response": None,
        "waits_per_token": None,
        "rllm_style": None,
    }
    if scores.num_waits is not None:
        summary["waits_per_response"] = float(scores.num_waits.mean())
        summary["waits_per_token"] = float(scores.num_waits.sum() / max(1, scores.num_tokens.sum()))
    if scores.correct_rllm_style is not None:
        mean, sem = pass_at_1(scores.correct_rllm_style)
        differing = float((scores.correct_rllm_style != scores.correct).mean())
        summary["rllm_style"] = {"pass_at_1": mean, "sem": sem, "disagreement": differing}
    return summary
