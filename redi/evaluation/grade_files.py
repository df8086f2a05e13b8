"""Grades a folder of generations: `generations.jsonl` and the golds beside it give `graded.jsonl`."""

import json
import time
from collections import Counter
from pathlib import Path

from redi.evaluation.benchmarks import load_benchmarks
from redi.evaluation.grade import STATUSES, grade_many
from redi.evaluation.records import BENCHMARK, GENERATIONS, GRADED, line, read_jsonl
from redi.runs import MANIFEST, UsageError, fingerprint, git_revision, read_manifest, write_text

FIELDS = ("benchmark", "id", "sample_idx", "response")
Key = tuple[str, str]  # benchmark, id


def grade_folder(folder: Path, benchmarks: list[str], benchmark_folder: Path, workers: int | None = None) -> None:
    """Writes `graded.jsonl`, adds what came out to the manifest, and prints it.

    Args:
        folder: holds `generations.jsonl` and, if `generate` made it, `benchmark.jsonl` with the golds.
        benchmarks: names or files of the golds for a folder without `benchmark.jsonl`; known names need not be given.
        benchmark_folder: where known names are looked up.
        workers: worker processes; None is one a core.

    Raises:
        UsageError: missing or malformed files, a sample that occurs twice, a problem without gold.
    """
    started = time.time()
    rows = _read_generations(folder / GENERATIONS)
    golds = _read_golds(folder, rows, benchmarks, benchmark_folder)
    for row in rows:
        if (row["benchmark"], row["id"]) not in golds:
            raise UsageError(f"{folder / GENERATIONS}: no gold for {row['benchmark']} '{row['id']}'")
        row["gold"] = golds[row["benchmark"], row["id"]]
    grades = grade_many([row["response"] for row in rows], [row["gold"] for row in rows], workers)
    for row, grade in zip(rows, grades, strict=True):
        row.update(correct=grade.correct, status=grade.status, answer=grade.answer)
    write_text(folder / GRADED, "".join(line(row) for row in rows))
    counts = {
        name: _count([row for row in rows if row["benchmark"] == name]) for name in sorted({k[0] for k in golds})
    }
    counts = {name: count for name, count in counts.items() if count["samples"]}
    manifest = (read_manifest(folder) or {}) | {
        "grading": {
            "generations_sha256": fingerprint(folder / GENERATIONS),
            "counts": counts,
            "git_revision": git_revision(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "wall_seconds": round(time.time() - started, 1),
        }
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    _print_counts(counts, folder / GRADED)


def _read_generations(path: Path) -> list[dict]:
    rows = read_jsonl(path, FIELDS)
    if not rows:
        raise UsageError(f"{path} has no rows")
    seen = set()
    for row in rows:
        key = (row["benchmark"], str(row["id"]), row["sample_idx"])
        if key in seen:
            raise UsageError(f"{path}: sample {key[2]} of {key[0]} '{key[1]}' occurs twice")
        if not isinstance(row["response"], str):
            raise UsageError(f"{path}: the response of sample {key[2]} of {key[0]} '{key[1]}' is no text")
        seen.add(key)
        row["id"] = str(row["id"])
    return rows


def _read_golds(folder: Path, rows: list[dict], benchmarks: list[str], benchmark_folder: Path) -> dict[Key, list[str]]:
    if (folder / BENCHMARK).is_file() and not benchmarks:
        golds = read_jsonl(folder / BENCHMARK, ("benchmark", "id", "answer"))
        return {(gold["benchmark"], str(gold["id"])): gold["answer"] for gold in golds}
    names = benchmarks or sorted({row["benchmark"] for row in rows})
    return {
        (benchmark.name, problem.id): list(problem.golds)
        for benchmark in load_benchmarks(names, benchmark_folder)
        for problem in benchmark.problems
    }


def _count(rows: list[dict]) -> dict[str, int]:
    statuses = Counter(row["status"] for row in rows)
    return {"samples": len(rows), "correct": sum(row["correct"] for row in rows)} | {s: statuses[s] for s in STATUSES}


def _print_counts(counts: dict[str, dict[str, int]], path: Path) -> None:
    columns = ("samples", "correct", *STATUSES)
    width = max(len(name) for name in ("benchmark", *counts))
    print("  ".join([f"{'benchmark':{width}}", *(f"{column:>12}" for column in columns)]))
    for name, count in counts.items():
        print("  ".join([f"{name:{width}}", *(f"{count[column]:12}" for column in columns)]))
    print(f"graded: {path}")
