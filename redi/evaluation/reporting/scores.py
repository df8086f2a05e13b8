"""Reads graded folders into arrays, and checks that they are complete and comparable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redi.evaluation.benchmarks import KNOWN
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, read_sampling, sampling_file
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import read_manifest

FIELDS = ("benchmark", "id", "sample_idx", "finish_reason", "num_tokens", "correct", "status")
PROTOCOL = (
    "protocol",
    "n",
    "temperature",
    "top_p",
    "max_tokens",
    "prompt",
    "force_think",
    "chat_template",
    "backend",
    "dtype",
    "seed",
)
MAY_DIFFER = ("protocol", "chat_template", "backend", "dtype", "seed")


@dataclass(frozen=True)
class Scores:
    """One model on one benchmark. Array rows are problems in the order of `ids`, columns are sample indices."""

    ids: tuple[str | int, ...]
    correct: np.ndarray  # (P, n)
    correct_rllm_style: np.ndarray | None  # (P, n); None if the folder has no second verdicts
    num_tokens: np.ndarray  # (P, n)
    num_waits: np.ndarray | None  # (P, n), how often a response says "Wait"; None without responses
    truncated: np.ndarray  # (P, n)
    no_answer: np.ndarray  # (P, n), includes no_think_end
    num_timeouts: int
    num_errors: int


@dataclass(frozen=True)
class GradedFolder:
    """One graded folder: a row of the report."""

    name: str
    path: Path
    protocol: dict[str, Any]
    scores: dict[str, Scores]


def names_of(folders: list[Path]) -> list[str]:
    """The folders' names, with their parents' names if two are equal."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(
            f"--input names a folder twice: {', '.join(sorted(n for n in set(names) if names.count(n) > 1))}"
        )
    return names


def read_graded(folder: Path, name: str) -> GradedFolder:
    """Reads one graded folder.

    Raises:
        UsageError: it is not graded, changed after grading, was cut, or lacks samples or problems.
    """
    if not (folder / GRADED).is_file():
        raise UsageError(f"--input {folder} has no {GRADED}; run `evaluate.py grade --input {folder}` first")
    grading = (read_manifest(folder) or {}).get("grading", {})
    graded = grading.get("generations_sha256")
    if graded is not None and graded != fingerprint(folder / GENERATIONS):
        raise UsageError(f"--input {folder}: {GENERATIONS} changed after it was graded; grade it again")
    config = read_sampling(folder) if sampling_file(folder) else {}
    protocol = {key: config[key] for key in PROTOCOL if config.get(key) is not None}
    rows = [_slim(row) for row in iter_jsonl(folder / GRADED, FIELDS)]
    if not rows:
        raise UsageError(f"{folder / GRADED} has no rows")
    benchmarks = {row["benchmark"] for row in rows}
    _check_complete(folder, rows, grading.get("counts", {}))
    scores = {
        benchmark: _scores([row for row in rows if row["benchmark"] == benchmark], f"{folder / GRADED}, {benchmark}")
        for benchmark in [name for name in KNOWN if name in benchmarks] + sorted(benchmarks - set(KNOWN))
    }
    return GradedFolder(name, folder, protocol, scores)


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    slim = {field: row[field] for field in FIELDS} | {"correct_rllm_style": row.get("correct_rllm_style")}
    return slim | {"num_waits": row["response"].count("Wait") if "response" in row else None}


def _check_complete(folder: Path, rows: list[dict[str, Any]], counts: dict[str, dict[str, int]]) -> None:
    expected = sum(count["samples"] for count in counts.values())
    if counts and expected != len(rows):
        raise UsageError(f"{folder / GRADED} has {len(rows)} rows of {expected}: it was cut; grade the folder again")
    if (folder / BENCHMARK).is_file():
        found = {(row["benchmark"], row["id"]) for row in rows}
        for problem in iter_jsonl(folder / BENCHMARK, ("benchmark", "id")):
            if (problem["benchmark"], problem["id"]) not in found:
                raise UsageError(
                    f"{folder / GRADED}: no samples of {problem['benchmark']} '{problem['id']}'; finish generate, "
                    f"then grade again"
                )


def _scores(rows: list[dict[str, Any]], where: str) -> Scores:
    ids = sorted({row["id"] for row in rows}, key=str)
    num_samples = len({row["sample_idx"] for row in rows})
    cells = {(row["id"], row["sample_idx"]): row for row in rows}
    for name in ids:
        for index in range(num_samples):
            if (name, index) not in cells:
                raise UsageError(f"{where}: sample {index} of '{name}' is missing; finish generate, then grade again")
    if len(rows) != len(cells):
        raise UsageError(f"{where}: a sample occurs twice")

    def array(value) -> np.ndarray:
        return np.array([[value(cells[name, index]) for index in range(num_samples)] for name in ids])

    def optional(field: str) -> np.ndarray | None:
        return None if any(row[field] is None for row in rows) else array(lambda row: int(row[field]))

    return Scores(
        ids=tuple(ids),
        correct=array(lambda row: int(row["correct"])),
        correct_rllm_style=optional("correct_rllm_style"),
        num_tokens=array(lambda row: row["num_tokens"]),
        num_waits=optional("num_waits"),
        truncated=array(lambda row: row["finish_reason"] == "length"),
        no_answer=array(lambda row: row["status"] in ("no_answer", "no_think_end")),
        num_timeouts=sum(row["status"] == "timeout" for row in rows),
        num_errors=sum(row["status"] == "error" for row in rows),
    )


def check_comparable(first: GradedFolder, other: GradedFolder) -> None:
    """Raises a `UsageError` that names the first difference between two folders' protocols, benchmarks or problems."""
    for key in PROTOCOL:
        ours, theirs = first.protocol.get(key, "not recorded"), other.protocol.get(key, "not recorded")
        if ours != theirs and key not in MAY_DIFFER:
            raise UsageError(f"{first.name} has {key} {ours}, {other.name} has {theirs}: not comparable")
    if set(first.scores) != set(other.scores):
        raise UsageError(
            f"{first.name} has {', '.join(first.scores)}, {other.name} has {', '.join(other.scores)}: not comparable"
        )
    for benchmark, ours in first.scores.items():
        theirs = other.scores[benchmark]
        if ours.ids != theirs.ids:
            odd = min(set(ours.ids) ^ set(theirs.ids), key=str)
            raise UsageError(f"{first.name} and {other.name} have different problems in {benchmark}, such as '{odd}'")
        if ours.correct.shape != theirs.correct.shape:
            raise UsageError(
                f"{benchmark}: {first.name} has {ours.correct.shape[1]} samples per problem, {other.name} has "
                f"{theirs.correct.shape[1]}: not comparable"
            )


def common_protocol(folders: list[GradedFolder]) -> dict[str, Any]:
    """The folders' common options, with a list of values for those that differ. Empty if nothing is recorded."""
    values = {key: list(dict.fromkeys(folder.protocol.get(key) for folder in folders)) for key in PROTOCOL}
    return {key: found[0] if len(found) == 1 else found for key, found in values.items() if found != [None]}
