"""Compares our results with the paper's Tables 1 to 4, cell by cell: agrees, off, or not run."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from redi.evaluation.benchmarks import KNOWN
from redi.evaluation.files import texts_of
from redi.evaluation.reporting.scores import GradedFolder, check_same_problems, read_graded
from redi.evaluation.reporting.statistics import mean_of_benchmarks, pass_at_1, pass_at_k
from redi.evaluation.reporting.tables import MINUS, PLUS_MINUS
from redi.runs.errors import UsageError, nearest
from redi.runs.files import CONFIGS, write_text
from redi.runs.markdown import grid

PAPER = CONFIGS / "paper_tables.yaml"
ROUNDING = 0.05  # points: the paper prints one decimal
VERDICTS = ("agrees", "off", "not enough samples", "other protocol", "not run")


def reproduce_table(table: str, runs: list[str], rllm_style: bool, output: Path | None) -> str:
    """Compares graded folders (see `match_runs`) with a table of the paper, "table1" to "table4"; as Markdown.

    `output` gets it as `.md` and `.json`. With `rllm_style`, the verdicts by the rules of the paper's grader are used.
    """
    paper = read_paper()
    result = compare(paper, table, match_runs(paper, table, runs), rllm_style)
    text = as_markdown(result)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / f"{table}.md", text)
        write_text(output / f"{table}.json", json.dumps(result, indent=2) + "\n")
    return text


def read_paper() -> dict[str, Any]:
    """The paper's numbers."""
    return yaml.safe_load(PAPER.read_text(encoding="utf-8"))


def match_runs(paper: dict[str, Any], table: str, runs: list[str]) -> dict[str, GradedFolder]:
    """Reads graded folders by row, each once. A run is ROW=DIR, or DIR if the folder has the row's name."""
    rows = paper["tables"][table]["rows"]
    folders: dict[str, GradedFolder] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if not equals:
            name, path = Path(run).resolve().name, run
        if name not in rows:
            hint = f"{nearest(name, list(rows))}; write ROW=DIR with one of the rows {', '.join(rows)}"
            raise UsageError(f"--runs {run}: '{name}' is not a row of {table}{hint}")
        if name in folders:
            raise UsageError(f"--runs names the row {name} twice: {folders[name].path} and {path}")
        folders[name] = read_graded(Path(path), name)
        check_same_problems(next(iter(folders.values())), folders[name])
    return folders


def compare(paper: dict[str, Any], table: str, folders: dict[str, GradedFolder], rllm_style: bool) -> dict[str, Any]:
    """Compares every cell of a table with graded folders by row. Means, errors and differences are in percent."""
    facts, protocol = paper["tables"][table], paper["protocol"]
    deviations = {name: found for name, folder in folders.items() if (found := _deviations(folder, protocol))}
    result = {"table": table, "title": facts["title"], "metric": facts["metric"], "rllm_style": rllm_style}
    cells = []
    for name, row in facts["rows"].items():
        sems = row.get("sem", [None] * len(row["mean"]))
        for column, mean, sem in zip(paper["columns"], row["mean"], sems, strict=False):  # pass@16 has no Avg
            cell = {"row": name, "of": row["of"], "column": column, "paper": mean, "paper_sem": sem, "n": None}
            cell |= {"ours": None, "sem": None, "difference": None, "limit": None, "verdict": "not run"}
            if name in folders:
                _measure(cell, folders[name], facts["metric"], rllm_style)
            if cell["n"] is not None and name in deviations:
                cell["verdict"] = "other protocol"
            elif cell["n"] is not None and cell["n"] < protocol["n"]:
                cell["verdict"] = "not enough samples"
            elif cell["n"] is not None:
                cell["verdict"] = "agrees" if abs(cell["difference"]) <= cell["limit"] else "off"
            cells.append(cell)
    return result | {"cells": cells, "deviations": deviations}


def _measure(cell: dict[str, Any], folder: GradedFolder, metric: str, rllm_style: bool) -> None:
    """Adds our numbers and the limit of the difference to a cell, as far as the folder has what they need."""
    names = list(KNOWN) if cell["column"] == "Avg" else [cell["column"]]
    if any(name not in folder.scores for name in names):
        return
    scores = [folder.scores[name] for name in names]
    arrays = [each.correct_rllm_style if rllm_style else each.correct for each in scores]
    if any(array is None for array in arrays):
        raise UsageError(f"{folder.path} has no verdicts in rllm style; grade it again, or pass --grader ours")
    cell["n"] = min(array.shape[1] for array in arrays)
    if metric == "pass@1":
        mean, sem = mean_of_benchmarks([pass_at_1(array) for array in arrays])
    elif cell["n"] >= 16:
        mean, sem = pass_at_k(arrays[0], 16), sampling_error(arrays[0], 16)
    else:
        return
    cell |= {"ours": 100 * mean, "sem": 100 * sem, "difference": 100 * mean - cell["paper"]}
    # The paper prints no error of pass@16, so its run is assumed to be as noisy as ours.
    theirs = cell["sem"] if cell["paper_sem"] is None else cell["paper_sem"]
    cell["limit"] = 2 * math.hypot(cell["sem"], theirs) + ROUNDING


def sampling_error(correct: np.ndarray, k: int) -> float:
    """The standard error of pass@k from sampling k answers. Problems are independent; each is solved or not.

    The chance of a correct answer is estimated as p = (c + 1/2) / (n + 1), so no problem counts as certain.
    """
    num_problems, n = correct.shape
    solved = 1 - (1 - (correct.sum(axis=1) + 0.5) / (n + 1)) ** k  # (P,)
    return float(math.sqrt((solved * (1 - solved)).sum()) / num_problems)


def _deviations(folder: GradedFolder, protocol: dict[str, Any]) -> list[str]:
    """Options that differ from the paper's or are unknown. The number of samples is judged per cell instead."""
    found = []
    for key, value in protocol.items():
        allowed, ours = texts_of(value), folder.protocol.get(key, "not recorded")
        if key != "n" and ours not in allowed:
            found.append(f"{key} {ours}, the paper's {' or '.join(map(str, allowed))}")
    if folder.grading.get("whole_responses"):
        found.append("whole responses graded, the paper's what follows </think>")
    for name, scores in folder.scores.items():
        if name in KNOWN and len(scores.ids) != KNOWN[name]:
            found.append(f"{len(scores.ids)} problems of {name}, the paper's {KNOWN[name]}")
    return found


def as_markdown(result: dict[str, Any]) -> str:
    """The comparison as a table with one row per cell, and the rule that was applied."""
    lines = []
    for cell in result["cells"]:
        values = _value(cell["paper"], cell["paper_sem"]), _value(cell["ours"], cell["sem"])
        difference = "-" if cell["difference"] is None else f"{cell['difference']:+.1f}".replace("-", MINUS)
        judged = difference, _value(cell["limit"]), cell["verdict"]
        lines.append([cell["of"], cell["column"], *values, str(cell["n"] or "-"), *judged])
    counts = Counter(cell["verdict"] for cell in result["cells"])
    grader = "by the rules of the paper's grader" if result["rllm_style"] else "by our own grader"
    notes = [
        f"The column 'the paper' holds the authors' results; ours are graded {grader}. All in percent.",
        f"agrees: |difference| <= limit = 2 sqrt(SEM_paper^2 + SEM_ours^2) + {ROUNDING} (the paper's rounding). "
        "If the paper gives no SEM, ours is used for both.",
    ]
    if result["metric"] != "pass@1":
        notes.append("The SEM of pass@16 is the noise of sampling 16 answers per problem, estimated from our samples.")
    notes += [
        "not enough samples: fewer than the paper's 16.",
        *(f"{name}: {'; '.join(found)}." for name, found in result["deviations"].items()),
        ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]) + ".",
    ]
    table = grid(["row", "benchmark", "the paper", "ours", "n", "difference", "limit", "verdict"], lines)
    return f"{result['title']}\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _value(mean: float | None, sem: float | None = None) -> str:
    shown = "-" if mean is None else f"{mean:.1f}"
    return shown if sem is None else f"{shown} {PLUS_MINUS} {sem:.1f}"
