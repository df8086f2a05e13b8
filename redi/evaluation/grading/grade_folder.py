"""Grades a folder of answers: `generations.jsonl` and its reference answers give `graded.jsonl`."""

import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redi.evaluation.benchmarks import SECOND_GOLDS, Problem, load_benchmarks, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, read_samples
from redi.evaluation.grading.answer import THINK_END
from redi.evaluation.grading.verdict import STATUSES, Grade, grade_many
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, write_text
from redi.runs.jsonl import iter_jsonl, line
from redi.runs.manifest import MANIFEST, git_revision, read_manifest
from redi.runs.markdown import fold, grid

COLUMNS = ("samples", "correct", "correct_rllm_style", *STATUSES)
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>")


def grade_folder(
    folder: Path,
    benchmarks: list[str],
    benchmark_folder: Path,
    workers: int | None = None,
    second_golds: Sequence[str] = (),
    whole_responses: bool = False,
) -> None:
    """Writes `graded.jsonl`, adds the counts to the manifest, and prints them.

    Refuses malformed files, a sample that occurs twice, and a problem without a reference answer.

    Args:
        folder: holds `generations.jsonl` and, if `generate` made it, `benchmark.jsonl` with the reference answers.
        benchmarks: names or files with the reference answers, for a folder without `benchmark.jsonl`. Known names can
            be omitted.
        benchmark_folder: holds the benchmarks with known names.
        workers: number of worker processes; None is one per core.
        second_golds: names of `SECOND_GOLDS` in `benchmark_folder`. Answers to the benchmark they belong to are also
            graded by these, in separate rows under this name.
        whole_responses: also grade responses without `</think>`, by their last box. Without it, only those whose
            prompt has closed the thought are.
    """
    started, path = time.time(), folder / GENERATIONS
    names = {benchmark for (benchmark, *_), _ in read_samples(path, ("response",))}  # checks every row
    second_golds = list(dict.fromkeys(second_golds))
    if without := [name for name in second_golds if SECOND_GOLDS[name] not in names]:
        raise UsageError(f"--second-golds {without[0]}: {folder} has no answers to {SECOND_GOLDS[without[0]]}")
    if (folder / BENCHMARK).is_file() and not benchmarks:
        problems = read_asked(folder / BENCHMARK, golds=True)
    else:
        problems = _problems(benchmarks or sorted(names), benchmark_folder)
    problems |= _problems(second_golds, benchmark_folder)
    parts, golds, num_closed = [], [], 0
    for row in _rows(path, second_golds):
        problem = problems.get(row["benchmark"], {}).get(str(row["id"]))
        if problem is None:
            raise UsageError(f"{path}: no reference answer for {row['benchmark']} '{row['id']}'")
        closed = closes_thought(row.get("prompt", ""), problem.problem)
        thought, end, final = row["response"].partition(THINK_END)
        parts.append(THINK_END + thought if not end and (whole_responses or closed) else end + final)
        golds.append(problem.answer)
        num_closed += closed
    grades = grade_many(parts, golds, workers)
    counts, endless = _write_graded(folder, second_golds, golds, grades)
    grading = {
        "second_golds": second_golds,
        "whole_responses": whole_responses,
        "thoughts_closed_by_prompt": num_closed,
        "generations_sha256": fingerprint(path),
        "counts": counts,
        "git_revision": git_revision(),
        "packages": {name: version(name) for name in ("math-verify", "sympy")},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "wall_seconds": round(time.time() - started, 1),
    }
    manifest = (read_manifest(folder) or {}) | {"grading": grading}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    print(fold(grid(["benchmark", *COLUMNS], [[name, *count.values()] for name, count in counts.items()])))
    _explain(endless, len(grades), num_closed, whole_responses)
    print(f"graded: {folder / GRADED}")


def _problems(benchmarks: list[str], benchmark_folder: Path) -> dict[str, dict[str, Problem]]:
    loaded = load_benchmarks(benchmarks, benchmark_folder)
    return {benchmark.name: {str(problem.id): problem for problem in benchmark.problems} for benchmark in loaded}


def _rows(path: Path, second_golds: list[str]) -> Iterator[dict[str, Any]]:
    """The rows to grade: all, then again those with second reference answers, under the name of these."""
    yield from iter_jsonl(path)
    for name in second_golds:
        yield from (row | {"benchmark": name} for row in iter_jsonl(path) if row["benchmark"] == SECOND_GOLDS[name])


def _write_graded(
    folder: Path, second_golds: list[str], golds: list[str | list[str]], grades: list[Grade]
) -> tuple[dict[str, Counter], Counter[str]]:
    """Writes one row per grade; returns counts by benchmark, and of the responses that never end their thought."""
    counts: dict[str, Counter] = defaultdict(lambda: Counter(dict.fromkeys(COLUMNS, 0)))
    endless: Counter[str] = Counter()
    temporary = folder / f".{GRADED}.tmp-{os.getpid()}"
    with temporary.open("w", encoding="ascii") as stream:
        for row, gold, grade in zip(_rows(folder / GENERATIONS, second_golds), golds, grades, strict=True):
            stream.write(line(row | asdict(grade) | {"gold": gold}))
            verdicts = {"correct": grade.correct, "correct_rllm_style": grade.correct_rllm_style}
            counts[row["benchmark"]].update({"samples": 1, grade.status: 1} | verdicts)
            if grade.status == "no_think_end":
                cut, box = row.get("finish_reason") == "length", r"\boxed" in row["response"]
                endless.update({"all": 1, "cut": cut, "boxed": box})
    temporary.replace(folder / GRADED)
    return dict(sorted(counts.items())), endless


def closes_thought(prompt: str, problem: str) -> bool:
    """Whether what follows the problem in a prompt closes the thought, so that all of the response is the answer."""
    if prompt.rstrip().endswith(THINK_END):
        return True
    _, problem, after = prompt.rpartition(problem.strip()) if problem.strip() else ("", "", "")
    closed = problem and _EMPTY_THOUGHT.search(after) and "<think>" not in after.rpartition(THINK_END)[2]
    return bool(closed)


def _explain(endless: Counter[str], num_responses: int, num_closed: int, whole_responses: bool) -> None:
    """Says which responses were graded whole, and what it means if most of them never end their thought."""
    if whole_responses:
        print("note: responses without </think> were graded by their last box (--whole-responses)", file=sys.stderr)
    elif num_closed:
        print(f"note: {num_closed} prompts close the thought, so their whole responses were graded", file=sys.stderr)
    if 2 * endless["all"] > num_responses:
        print(
            f"note: {endless['all']} of {num_responses} responses have no </think> (no_think_end) and count as wrong; "
            f"{endless['cut']} of these were cut off at the token limit, {endless['boxed']} have a box. A model that "
            "does not think aloud never writes </think>: pass --whole-responses to grade its whole responses. If it "
            "does, raise --max-tokens, or pass --force-think when sampling.",
            file=sys.stderr,
        )
