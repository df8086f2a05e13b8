"""The paper's tables beside our own figures: what agrees, what is off, and what was not run."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from redi.evaluation.benchmarks import KNOWN
from redi.evaluation.reporting.scores import Entry, Scores, read_entry
from redi.evaluation.reporting.statistics import mean_of_benchmarks, pass_at_1, pass_at_k
from redi.evaluation.reporting.tables import MINUS, PLUS_MINUS
from redi.runs.errors import UsageError, nearest
from redi.runs.files import CONFIGS
from redi.runs.markdown import grid

PAPER = CONFIGS / "paper_tables.yaml"
ROUNDING = 0.05  # points: the paper prints one decimal
VERDICTS = ("agrees", "off", "not enough samples", "other protocol", "not run")


def read_paper() -> dict[str, Any]:
    """The data file of the paper's figures."""
    return yaml.safe_load(PAPER.read_text(encoding="utf-8"))


def match_runs(paper: dict[str, Any], table: str, runs: list[str]) -> dict[str, Entry]:
    """Reads graded folders, given as ROW=DIR, or as DIR where the folder is named like the row.

    Raises:
        UsageError: a row that the table does not have, or one that is given twice; a folder that cannot be read.
    """
    rows = paper["tables"][table]["rows"]
    entries: dict[str, Entry] = {}
    for run in runs:
        name, equals, folder = run.partition("=")
        if not equals:
            name, folder = Path(run).resolve().name, run
        if name not in rows:
            raise UsageError(
                f"--runs {run}: '{name}' is no row of {table}{nearest(name, list(rows))}; write ROW=DIR, where ROW is "
                f"one of {', '.join(rows)}"
            )
        if name in entries:
            raise UsageError(f"--runs names the row {name} twice: {entries[name].folder} and {folder}")
        entries[name] = read_entry(Path(folder), name)
    return entries


def compare(paper: dict[str, Any], table: str, entries: dict[str, Entry], rllm_style: bool) -> dict[str, Any]:
    """One cell a row and column of the paper's table; means, errors and differences in percent.

    Args:
        paper: what `read_paper` gave.
        table: "table1" to "table4".
        entries: by row.
        rllm_style: take the verdicts in the style of the paper's grader.
    """
    facts = paper["tables"][table]
    cells = []
    for name, row in facts["rows"].items():
        sems = row.get("sem", [None] * len(row["mean"]))
        for column, mean, sem in zip(paper["columns"], row["mean"], sems, strict=False):  # pass@16 has no Avg
            cell = {"row": name, "of": row["of"], "column": column, "paper": mean, "paper_sem": sem, "n": None}
            cell |= {"ours": None, "sem": None, "difference": None, "limit": None, "verdict": "not run"}
            if name in entries:
                cell |= _measure(entries[name], column, facts["metric"], rllm_style)
                _judge(cell, paper["protocol"]["n"], _deviations(entries[name], paper["protocol"]))
            cells.append(cell)
    notes = {name: found for name, entry in entries.items() if (found := _deviations(entry, paper["protocol"]))}
    return {
        "table": table,
        "title": facts["title"],
        "metric": facts["metric"],
        "rllm_style": rllm_style,
        "cells": cells,
        "deviations": notes,
    }


def _measure(entry: Entry, column: str, metric: str, rllm_style: bool) -> dict[str, Any]:
    names = list(KNOWN) if column == "Avg" else [column]
    if any(name not in entry.scores for name in names):
        return {}
    arrays = [_correct(entry, entry.scores[name], rllm_style) for name in names]
    n = min(array.shape[1] for array in arrays)
    if metric == "pass@1":
        mean, sem = mean_of_benchmarks([pass_at_1(array) for array in arrays])
    elif n >= int(metric.removeprefix("pass@")):
        mean, sem = pass_at_k(arrays[0], 16), sampling_error(arrays[0], 16)
    else:
        return {"n": n}
    return {"ours": 100 * mean, "sem": 100 * sem, "n": n}


def _correct(entry: Entry, scores: Scores, rllm_style: bool) -> np.ndarray:
    if not rllm_style:
        return scores.correct
    if scores.correct_rllm_style is None:
        raise UsageError(f"{entry.folder} has no verdicts in rllm style; grade it again, or pass --grader ours")
    return scores.correct_rllm_style


def sampling_error(correct: np.ndarray, k: int) -> float:
    """The standard error of pass@k that comes from sampling k answers: problems are independent, each solved or not.

    With p = (c + 1/2) / (n + 1), so that a problem that was never or always solved is not taken for certain.
    """
    num_problems, n = correct.shape
    solved = 1 - (1 - (correct.sum(axis=1) + 0.5) / (n + 1)) ** k  # (P,)
    return float(math.sqrt((solved * (1 - solved)).sum()) / num_problems)


def _judge(cell: dict[str, Any], wanted_n: int, deviations: list[str]) -> None:
    """Fills in the difference, its limit and the verdict."""
    if cell["n"] is None:
        return
    if cell["ours"] is not None:
        # pass@16 is printed without an error: the paper's run is taken to be as noisy as ours.
        theirs = cell["paper_sem"] if cell["paper_sem"] is not None else cell["sem"]
        cell["difference"] = cell["ours"] - cell["paper"]
        cell["limit"] = 2 * math.hypot(cell["sem"], theirs) + ROUNDING
    if deviations:
        cell["verdict"] = "other protocol"
    elif cell["n"] < wanted_n:
        cell["verdict"] = "not enough samples"
    else:
        cell["verdict"] = "agrees" if abs(cell["difference"]) <= cell["limit"] else "off"


def _deviations(entry: Entry, protocol: dict[str, Any]) -> list[str]:
    """Where a folder's options are not the paper's, or unknown; the number of samples is judged cell by cell."""
    found = []
    for key, value in protocol.items():
        allowed = value if isinstance(value, list) else [value]
        ours = entry.protocol.get(key, "not recorded")
        if key != "n" and ours not in allowed:
            found.append(f"{key} {ours}, the paper's {' or '.join(map(str, allowed))}")
    for name, scores in entry.scores.items():
        if name in KNOWN and len(scores.ids) != KNOWN[name]:
            found.append(f"{len(scores.ids)} problems of {name}, the paper's {KNOWN[name]}")
    return found


def as_markdown(result: dict[str, Any]) -> str:
    """The comparison as a table of one line a cell, with the rule that was applied."""
    header = ["row", "benchmark", "the paper", "ours", "n", "difference", "limit", "verdict"]
    lines = [
        [
            cell["of"],
            cell["column"],
            _value(cell["paper"], cell["paper_sem"]),
            _value(cell["ours"], cell["sem"]),
            str(cell["n"] or "-"),
            "-" if cell["difference"] is None else f"{cell['difference']:+.1f}".replace("-", MINUS),
            "-" if cell["limit"] is None else f"{cell['limit']:.1f}",
            cell["verdict"],
        ]
        for cell in result["cells"]
    ]
    counts = Counter(cell["verdict"] for cell in result["cells"])
    grader = "by the rules of the paper's grader" if result["rllm_style"] else "by our own grader"
    notes = [
        f"The column 'the paper' holds the authors' figures; ours are graded {grader}. All in percent.",
        f"agrees: |difference| <= limit = 2 sqrt(SEM^2 + SEM^2) + {ROUNDING}, the rounding of a printed decimal. "
        "Where the paper gives no SEM, ours stands for both.",
        "not enough samples: fewer than the paper's 16.",
        *(f"{name}: {'; '.join(found)}." for name, found in result["deviations"].items()),
        ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]) + ".",
    ]
    if result["metric"] != "pass@1":
        notes.insert(
            2, "The SEM of pass@16 is that of sampling 16 answers to each problem, estimated from our samples."
        )
    return f"{result['title']}\n\n{grid(header, lines)}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _value(mean: float | None, sem: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if sem is None else f"{mean:.1f} {PLUS_MINUS} {sem:.1f}"
