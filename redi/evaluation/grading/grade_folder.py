"""Grades a folder of answers: `generations.jsonl` and its reference answers give `graded.jsonl`."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from redi.evaluation.benchmarks import SECOND_GOLDS, load_benchmarks
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.grading.answer import graded_part
from redi.evaluation.grading.verdict import STATUSES, Grade, grade_many
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, write_text
from redi.runs.jsonl import iter_jsonl, line
from redi.runs.manifest import MANIFEST, git_revision, read_manifest
from redi.runs.markdown import grid

FIELDS = ("benchmark", "id", "sample_idx", "response")
COLUMNS = ("samples", "correct", "correct_rllm_style", *STATUSES)
Golds = dict[tuple[str, str | int], str | list[str]]  # by benchmark and id


def grade_folder(
    folder: Path,
    benchmarks: list[str],
    benchmark_folder: Path,
    workers: int | None = None,
    second_golds: Sequence[str] = (),
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

    Raises:
        UsageError: a file is missing or malformed, a sample occurs twice, or a problem has no reference answer.
    """
    started = time.time()
    samples = _read_samples(folder / GENERATIONS)
    golds = _read_golds(folder, {sample.benchmark for sample in samples}, benchmarks, benchmark_folder)
    second_golds = list(dict.fromkeys(second_golds))
    for name in second_golds:
        samples += _under_second_name(samples, name, folder)
        golds |= _golds_of([name], benchmark_folder)
    for sample in samples:
        if (sample.benchmark, sample.id) not in golds:
            raise UsageError(f"{folder / GENERATIONS}: no reference answer for {sample.benchmark} '{sample.id}'")
    sample_golds = [golds[sample.benchmark, sample.id] for sample in samples]
    grades = grade_many([sample.graded_part for sample in samples], sample_golds, workers)
    names = [sample.benchmark for sample in samples]
    _write_graded(folder, names, sample_golds, grades, second_golds)
    counts = _count(names, grades)
    manifest = (read_manifest(folder) or {}) | {
        "grading": {
            "second_golds": second_golds,
            "generations_sha256": fingerprint(folder / GENERATIONS),
            "counts": counts,
            "git_revision": git_revision(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_seconds": round(time.time() - started, 1),
        }
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    print(grid(["benchmark", *COLUMNS], [[name, *count.values()] for name, count in counts.items()]))
    print(f"graded: {folder / GRADED}")


class _Sample(NamedTuple):
    benchmark: str
    id: str | int
    index: int
    graded_part: str  # of the response


def _read_samples(path: Path) -> list[_Sample]:
    samples, seen = [], set()
    for row in iter_jsonl(path, FIELDS):
        sample = _Sample(row["benchmark"], row["id"], row["sample_idx"], row["response"])
        where = f"{path}: sample {sample.index} of {sample.benchmark} '{sample.id}'"
        if sample[:3] in seen:
            raise UsageError(f"{where} occurs twice")
        if not isinstance(row["response"], str):
            raise UsageError(f"{where}: the response is not text")
        seen.add(sample[:3])
        samples.append(sample._replace(graded_part=graded_part(row["response"])))
    if not samples:
        raise UsageError(f"{path} has no rows")
    return samples


def _under_second_name(samples: list[_Sample], second: str, folder: Path) -> list[_Sample]:
    """The samples to grade by second reference answers, under the name of these."""
    found = [sample._replace(benchmark=second) for sample in samples if sample.benchmark == SECOND_GOLDS[second]]
    if not found:
        raise UsageError(f"--second-golds {second}: {folder} has no answers to {SECOND_GOLDS[second]}")
    return found


def _read_golds(folder: Path, names: set[str], benchmarks: list[str], benchmark_folder: Path) -> Golds:
    if (folder / BENCHMARK).is_file() and not benchmarks:
        rows = iter_jsonl(folder / BENCHMARK, ("benchmark", "id", "answer"))
        return {(row["benchmark"], row["id"]): row["answer"] for row in rows}
    return _golds_of(benchmarks or sorted(names), benchmark_folder)


def _golds_of(benchmarks: list[str], benchmark_folder: Path) -> Golds:
    return {
        (benchmark.name, problem.id): problem.answer
        for benchmark in load_benchmarks(benchmarks, benchmark_folder)
        for problem in benchmark.problems
    }


def _write_graded(
    folder: Path,
    benchmarks: list[str],
    golds: list[str | list[str]],
    grades: list[Grade],
    second_golds: list[str],
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
