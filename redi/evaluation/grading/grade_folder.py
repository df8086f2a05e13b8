"""Grades a folder of answers: `generations.jsonl` and its reference answers give `graded.jsonl`."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from redi.evaluation.benchmarks import SECOND_GOLDS, Problem, load_benchmarks, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, SampleKey, read_samples
from redi.evaluation.grading.answer import THINK_END, graded_part
from redi.evaluation.grading.verdict import STATUSES, Grade, grade_many
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, write_text
from redi.runs.jsonl import iter_jsonl, line
from redi.runs.manifest import MANIFEST, git_revision, read_manifest
from redi.runs.markdown import grid

FIELDS = ("response",)
COLUMNS = ("samples", "correct", "correct_rllm_style", *STATUSES)
Problems = dict[str, dict[str, Problem]]  # by benchmark and id as text
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

    Raises:
        UsageError: a file is missing or malformed, a sample occurs twice, or a problem has no reference answer.
    """
    started = time.time()
    path = folder / GENERATIONS
    samples = [_sample(key, row, whole_responses) for key, row in read_samples(path, FIELDS)]
    problems = _problems(folder, {sample.benchmark for sample in samples}, benchmarks, benchmark_folder)
    second_golds = list(dict.fromkeys(second_golds))
    for name in second_golds:
        samples += _under_second_name(samples, name, folder)
        problems |= _problems_of([name], benchmark_folder)
    asked = []
    for sample in samples:
        problem = problems.get(sample.benchmark, {}).get(sample.id)
        if problem is None:
            raise UsageError(f"{path}: no reference answer for {sample.benchmark} '{sample.id}'")
        asked.append(problem)
    closed = [closes_thought(s.prompt, problem.problem) for s, problem in zip(samples, asked, strict=True)]
    parts = [_part(s.text, whole_responses or close) for s, close in zip(samples, closed, strict=True)]
    golds = [problem.answer for problem in asked]
    grades = grade_many(parts, golds, workers)
    names = [sample.benchmark for sample in samples]
    _write_graded(folder, names, golds, grades, second_golds)
    counts = _count(names, grades)
    manifest = (read_manifest(folder) or {}) | {
        "grading": {
            "second_golds": second_golds,
            "whole_responses": whole_responses,
            "thoughts_closed_by_prompt": sum(closed),
            "generations_sha256": fingerprint(path),
            "counts": counts,
            "git_revision": git_revision(),
            "packages": {"math-verify": version("math-verify"), "sympy": version("sympy")},
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_seconds": round(time.time() - started, 1),
        }
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    print(grid(["benchmark", *COLUMNS], [[name, *count.values()] for name, count in counts.items()]))
    _explain(samples, grades, closed, whole_responses)
    print(f"graded: {folder / GRADED}")


class _Sample(NamedTuple):
    benchmark: str
    id: str
    text: str  # the response, or the part of it that decides its grade
    prompt: str  # empty if it cannot close the thought
    was_cut: bool
    has_box: bool


def _sample(key: SampleKey, row: dict[str, Any], whole: bool) -> _Sample:
    """What grading needs of a row: together, the thoughts may be larger than the memory."""
    response, prompt = row["response"], row.get("prompt", "")
    prompt = prompt if THINK_END in prompt else ""
    text = response if whole or prompt else graded_part(response)
    return _Sample(*key[:2], text, prompt, row.get("finish_reason") == "length", r"\boxed" in response)


def closes_thought(prompt: str, problem: str) -> bool:
    """Whether what follows the problem in a prompt closes the thought, so that all of the response is the answer."""
    if prompt.rstrip().endswith(THINK_END):
        return True
    _, problem, after = prompt.rpartition(problem.strip()) if problem.strip() else ("", "", "")
    return (
        bool(problem) and _EMPTY_THOUGHT.search(after) is not None and "<think>" not in after.rpartition(THINK_END)[2]
    )


def _part(response: str, whole: bool) -> str:
    """What decides a response's grade."""
    return THINK_END + response if whole and THINK_END not in response else graded_part(response)


def _explain(samples: list[_Sample], grades: list[Grade], closed: list[bool], whole_responses: bool) -> None:
    """Says which responses were graded whole, and what it means if most of them never end their thought."""
    if whole_responses:
        print("note: responses without </think> were graded by their last box (--whole-responses)", file=sys.stderr)
    elif any(closed):
        print(f"note: {sum(closed)} prompts close the thought, so their whole responses were graded", file=sys.stderr)
    endless = [s for s, grade in zip(samples, grades, strict=True) if grade.status == "no_think_end"]
    if 2 * len(endless) > len(samples):
        cut, boxed = sum(sample.was_cut for sample in endless), sum(sample.has_box for sample in endless)
        print(
            f"note: {len(endless)} of {len(samples)} responses have no </think> (no_think_end) and count as wrong; "
            f"{cut} of these were cut off at the token limit, {boxed} have a box. A model that does not think aloud "
            "never writes </think>: pass --whole-responses to grade its whole responses. If it does, raise "
            "--max-tokens, or pass --force-think when sampling.",
            file=sys.stderr,
        )


def _under_second_name(samples: list[_Sample], second: str, folder: Path) -> list[_Sample]:
    """The samples to grade by second reference answers, under the name of these."""
    found = [sample._replace(benchmark=second) for sample in samples if sample.benchmark == SECOND_GOLDS[second]]
    if not found:
        raise UsageError(f"--second-golds {second}: {folder} has no answers to {SECOND_GOLDS[second]}")
    return found


def _problems(folder: Path, names: set[str], benchmarks: list[str], benchmark_folder: Path) -> Problems:
    if (folder / BENCHMARK).is_file() and not benchmarks:
        return read_asked(folder / BENCHMARK, golds=True)
    return _problems_of(benchmarks or sorted(names), benchmark_folder)


def _problems_of(benchmarks: list[str], benchmark_folder: Path) -> Problems:
    loaded = load_benchmarks(benchmarks, benchmark_folder)
    return {benchmark.name: {str(problem.id): problem for problem in benchmark.problems} for benchmark in loaded}


def _write_graded(
    folder: Path, benchmarks: list[str], golds: list[str | list[str]], grades: list[Grade], second_golds: list[str]
) -> None:
    """Writes one row per grade: the generations in order, then those graded by second reference answers."""
    temporary = folder / f".{GRADED}.tmp-{os.getpid()}"
    with temporary.open("w", encoding="ascii") as stream:
        rows = _rows_again(folder / GENERATIONS, second_golds)
        for row, benchmark, gold, grade in zip(rows, benchmarks, golds, grades, strict=True):
            stream.write(line(row | {"benchmark": benchmark} | asdict(grade) | {"gold": gold}))
    temporary.replace(folder / GRADED)


def _rows_again(path: Path, second_golds: list[str]) -> Iterator[dict[str, Any]]:
    yield from iter_jsonl(path, FIELDS)
    for second in second_golds:
        yield from (row for row in iter_jsonl(path, FIELDS) if row["benchmark"] == SECOND_GOLDS[second])


def _count(benchmarks: list[str], grades: list[Grade]) -> dict[str, dict[str, int]]:
    counts = {name: dict.fromkeys(COLUMNS, 0) for name in sorted(set(benchmarks))}
    for name, grade in zip(benchmarks, grades, strict=True):
        counts[name]["samples"] += 1
        counts[name]["correct"] += grade.correct
        counts[name]["correct_rllm_style"] += grade.correct_rllm_style
        counts[name][grade.status] += 1
    return counts
