"""Puts graded folders side by side: `table.md`, `table.tex`, `table.json`, `pass_at_1.png` and `report.html`."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from redi.evaluation.benchmarks import SECOND_GOLDS
from redi.evaluation.files import GRADED
from redi.evaluation.reporting.html_report import write_page
from redi.evaluation.reporting.latex_table import latex
from redi.evaluation.reporting.scores import Entry, Scores, check_comparable, common_protocol, names_of, read_entry
from redi.evaluation.reporting.statistics import (
    draw_differences,
    interval,
    limits,
    mean_of_benchmarks,
    paired_difference,
    pass_at_1,
    pass_at_k,
)
from redi.evaluation.reporting.tables import markdown
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import write_manifest
from redi.runs.markdown import grid


def report(
    inputs: list[Path],
    output: Path,
    baselines: list[str],
    max_responses: int = 2000,
    show_disagreements: bool = False,
) -> None:
    """Writes the tables, the plot and the page of the graded folders `inputs` to `output`, and prints the table.

    Args:
        inputs: graded folders, one row each.
        output: gets the files and a manifest.
        baselines: folders, or names of some of `inputs`, to which differences are given; the first of several inputs
            if empty.
        max_responses: most responses that `report.html` holds.
        show_disagreements: also print every answer on which the two verdicts differ.

    Raises:
        UsageError: a folder is not graded or not complete, protocols or problems differ, or there is no such baseline.
    """
    from redi.evaluation.reporting.plots import plot_pass_at_1

    started = time.time()
    folders = _with_baselines(inputs, baselines)
    entries = [read_entry(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    for entry in entries[1:]:
        check_comparable(entries[0], entry)
    compared = [entries[_find(baseline, folders)] for baseline in baselines] or entries[: len(entries) > 1]
    table = summarize(entries, compared)
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(table)
    write_text(output / "table.md", text)
    write_text(output / "table.tex", latex(table))
    write_text(output / "table.json", json.dumps(table, indent=2) + "\n")
    plot_pass_at_1(table, output / "pass_at_1.png")
    write_page(table, entries, output / "report.html", max_responses)
    write_manifest(
        output,
        config={"input": [str(folder) for folder in folders], "baseline": table["baselines"]},
        inputs={entry.name: entry.folder / GRADED for entry in entries},
        counts={entry.name: sum(s.correct.size for s in entry.scores.values()) for entry in entries},
        started=started,
    )
    print(text)
    if show_disagreements:
        print(disagreements(entries))


def _with_baselines(inputs: list[Path], baselines: list[str]) -> list[Path]:
    """The folders, with baselines that are not among them put first."""
    extra = [Path(baseline) for baseline in baselines if _find(baseline, inputs) is None]
    for folder in extra:
        if not folder.is_dir():
            raise UsageError(f"--baseline {folder} is neither a folder nor one of: {', '.join(names_of(inputs))}")
    return [*extra, *inputs]


def _find(baseline: str, folders: list[Path]) -> int | None:
    """Where the baseline, a folder or a name, is among the folders."""
    for index, (folder, name) in enumerate(zip(folders, names_of(folders), strict=True)):
        if baseline in (name, folder.name) or Path(baseline).resolve() == folder.resolve():
            return index
    return None


def summarize(entries: list[Entry], baselines: list[Entry]) -> dict[str, Any]:
    """All numbers of the report, as `table.json` holds them; shares are between 0 and 1."""
    return {
        "protocol": common_protocol(entries),
        "averaged": averaged(list(entries[0].scores)),
        "baselines": [baseline.name for baseline in baselines],
        "rows": [_summarize_entry(entry, baselines) for entry in entries],
    }


def averaged(benchmarks: list[str]) -> list[str]:
    """The benchmarks that count in the average: other golds of the same problems do not."""
    return [name for name in benchmarks if SECOND_GOLDS.get(name) not in benchmarks]


def _summarize_entry(entry: Entry, baselines: list[Entry]) -> dict[str, Any]:
    others = [baseline for baseline in baselines if baseline is not entry]
    benchmarks = {}
    for name, scores in entry.scores.items():
        differences = {
            other.name: _named(*paired_difference(scores.correct, other.scores[name].correct)) for other in others
        }
        benchmarks[name] = summarize_scores(scores) | {"differences": differences}
    names = averaged(list(benchmarks))
    mean, sem = mean_of_benchmarks([(benchmarks[name]["pass_at_1"], benchmarks[name]["sem"]) for name in names])
    return {
        "name": entry.name,
        "average": {"pass_at_1": mean, "sem": sem},
        "average_differences": {other.name: _mean_difference(entry, other) for other in others},
        "benchmarks": benchmarks,
    }


def _named(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def _mean_difference(entry: Entry, other: Entry) -> dict[str, float]:
    """The difference of the averages, each benchmark drawn by itself."""
    pairs = [(entry.scores[name].correct, other.scores[name].correct) for name in averaged(list(entry.scores))]
    draws = np.mean([draw_differences(*pair, seed=seed) for seed, pair in enumerate(pairs)], axis=0)
    return _named(float(np.mean([ours.mean() - base.mean() for ours, base in pairs])), *limits(draws))


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


def disagreements(entries: list[Entry]) -> str:
    """Every answer on which the two verdicts differ, with how often it was given, as a Markdown table."""
    found: Counter[tuple] = Counter()
    for entry in entries:
        for row in iter_jsonl(entry.folder / GRADED, ("benchmark", "id", "correct", "answer", "gold")):
            if row.get("correct_rllm_style") not in (None, row["correct"]):
                gold = json.dumps(row["gold"])
                found[entry.name, row["benchmark"], str(row["id"]), gold, row["answer"], row["correct"]] += 1
    if not found:
        return "The two verdicts agree on every answer."
    lines = [
        [name, benchmark, problem, _code(gold), _code(answer), "right" if correct else "wrong", str(count)]
        for (name, benchmark, problem, gold, answer, correct), count in found.items()
    ]
    return grid(["model", "benchmark", "id", "gold", "answer", "verdict, rllm style differs", "times"], lines)


def _code(text: str | None, width: int = 60) -> str:
    text = " ".join((text or "none").split()).replace("|", "\\|")
    return text if len(text) <= width else f"{text[: width - 3]}..."
