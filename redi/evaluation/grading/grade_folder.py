"""Grades a folder of generations: `generations.jsonl` and the golds beside it give `graded.jsonl`."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redi.evaluation.benchmarks import SECOND_GOLDS, load_benchmarks
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.grading.grade import STATUSES, Grade, grade_many, graded_part
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, write_text
from redi.runs.jsonl import iter_jsonl, line
from redi.runs.manifest import MANIFEST, git_revision, read_manifest

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
    """Writes `graded.jsonl`, adds what came out to the manifest, and prints it.

    Args:
        folder: holds `generations.jsonl` and, if `generate` made it, `benchmark.jsonl` with the golds.
        benchmarks: names or files of the golds for a folder without `benchmark.jsonl`; known names need not be given.
        benchmark_folder: where known names are looked up.
        workers: worker processes; None is one a core.
        second_golds: names of `SECOND_GOLDS`, looked up in `benchmark_folder`; the answers to the benchmark that they
            belong to are graded by these too, in rows of their own under that name.

    Raises:
        UsageError: missing or malformed files, a sample that occurs twice, a problem without gold.
    """
    started = time.time()
    samples = _read_samples(folder / GENERATIONS)
    golds = _read_golds(folder, {sample[0] for sample in samples}, benchmarks, benchmark_folder)
    for second in dict.fromkeys(second_golds):
        found = [(second, *sample[1:]) for sample in samples if sample[0] == SECOND_GOLDS[second]]
        if not found:
            raise UsageError(f"--second-golds {second}: {folder} has no answers to {SECOND_GOLDS[second]}")
        samples += found
        golds |= _golds_of([second], benchmark_folder)
    for benchmark, name, _, _ in samples:
        if (benchmark, name) not in golds:
            raise UsageError(f"{folder / GENERATIONS}: no gold for {benchmark} '{name}'")
    sample_golds = [golds[benchmark, name] for benchmark, name, _, _ in samples]
    grades = grade_many([part for _, _, _, part in samples], sample_golds, workers)
    _write_graded(folder, [sample[0] for sample in samples], sample_golds, grades)
    counts = _count([sample[0] for sample in samples], grades)
    manifest = (read_manifest(folder) or {}) | {
        "grading": {
            "second_golds": list(second_golds),
            "generations_sha256": fingerprint(folder / GENERATIONS),
            "counts": counts,
            "git_revision": git_revision(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_seconds": round(time.time() - started, 1),
        }
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    _print_counts(counts, folder / GRADED)


def _read_samples(path: Path) -> list[tuple[str, str | int, int, str]]:
    """Benchmark, id, sample index and the graded part of each response."""
    samples, seen = [], set()
    for row in iter_jsonl(path, FIELDS):
        key = (row["benchmark"], row["id"], row["sample_idx"])
        if key in seen:
            raise UsageError(f"{path}: sample {key[2]} of {key[0]} '{key[1]}' occurs twice")
        if not isinstance(row["response"], str):
            raise UsageError(f"{path}: the response of sample {key[2]} of {key[0]} '{key[1]}' is no text")
        seen.add(key)
        samples.append((*key, graded_part(row["response"])))
    if not samples:
        raise UsageError(f"{path} has no rows")
    return samples


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


def _write_graded(folder: Path, benchmarks: list[str], golds: list[str | list[str]], grades: list[Grade]) -> None:
    """Writes a row a grade: those of the generations, in order, then those by second golds."""
    temporary = folder / f".{GRADED}.tmp-{os.getpid()}"
    with temporary.open("w", encoding="ascii") as stream:
        rows = _rows_again(folder / GENERATIONS, list(dict.fromkeys(b for b in benchmarks if b in SECOND_GOLDS)))
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


def _print_counts(counts: dict[str, dict[str, int]], path: Path) -> None:
    width = max(len(name) for name in ("benchmark", *counts))
    print("  ".join([f"{'benchmark':{width}}", *(f"{column:>{len(column) + 2}}" for column in COLUMNS)]))
    for name, count in counts.items():
        print("  ".join([f"{name:{width}}", *(f"{count[column]:{len(column) + 2}}" for column in COLUMNS)]))
    print(f"graded: {path}")
