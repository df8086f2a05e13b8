"""Puts graded folders side by side: `table.md`, `table.json` and `pass_at_1.png`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redi.evaluation.benchmarks import KNOWN
from redi.evaluation.records import CONFIG, GENERATIONS, GRADED, iter_jsonl, read_config
from redi.evaluation.statistics import mean_of_benchmarks, paired_difference, pass_at_1, pass_at_k
from redi.evaluation.tables import markdown
from redi.runs import UsageError, fingerprint, read_manifest, write_manifest, write_text

FIELDS = ("benchmark", "id", "sample_idx", "finish_reason", "num_tokens", "correct", "status")
PROTOCOL = ("n", "temperature", "top_p", "max_tokens", "prompt", "backend", "seed", "dtype")
MAY_DIFFER = ("seed", "dtype", "backend")


@dataclass(frozen=True)
class Scores:
    """One model on one benchmark; rows of the arrays are problems in the order of `ids`, columns sample indices."""

    ids: tuple[str | int, ...]
    correct: np.ndarray  # (P, n)
    num_tokens: np.ndarray  # (P, n)
    truncated: np.ndarray  # (P, n)
    no_answer: np.ndarray  # (P, n), with no_think_end
    num_timeouts: int
    num_errors: int


@dataclass(frozen=True)
class Entry:
    """One graded folder."""

    name: str
    folder: Path
    protocol: dict[str, Any]
    scores: dict[str, Scores]


def report(inputs: list[Path], output: Path, baselines: list[str]) -> None:
    """Writes the table and the plot of the graded folders `inputs` to `output`, and prints the table.

    Args:
        inputs: graded folders, one row each.
        output: gets `table.md`, `table.json`, `pass_at_1.png` and a manifest.
        baselines: folders, or names of some of `inputs`, to which differences are given.

    Raises:
        UsageError: a folder is not graded or not complete, protocols or problems differ, or there is no such baseline.
    """
    from redi.evaluation.plots import plot_pass_at_1

    started = time.time()
    folders = _with_baselines(inputs, baselines)
    entries = [read_entry(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    for entry in entries[1:]:
        _check_comparable(entries[0], entry)
    table = summarize(entries, [entries[_find(baseline, folders)] for baseline in baselines])
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(table)
    write_text(output / "table.md", text)
    write_text(output / "table.json", json.dumps(table, indent=2) + "\n")
    plot_pass_at_1(table, output / "pass_at_1.png")
    write_manifest(
        output,
        config={"input": [str(folder) for folder in folders], "baseline": table["baselines"]},
        inputs={entry.name: entry.folder / GRADED for entry in entries},
        counts={entry.name: sum(s.correct.size for s in entry.scores.values()) for entry in entries},
        started=started,
    )
    print(text)


def _with_baselines(inputs: list[Path], baselines: list[str]) -> list[Path]:
    """The folders, with baselines that are not among them put first."""
    extra = [Path(baseline) for baseline in baselines if _find(baseline, inputs) is None]
    for folder in extra:
        if not folder.is_dir():
            raise UsageError(f"--baseline {folder} is neither a folder nor one of: {', '.join(_names(inputs))}")
    return [*extra, *inputs]


def _find(baseline: str, folders: list[Path]) -> int | None:
    """Where the baseline, a folder or a name, is among the folders."""
    for index, (folder, name) in enumerate(zip(folders, _names(folders), strict=True)):
        if baseline in (name, folder.name) or Path(baseline).resolve() == folder.resolve():
            return index
    return None


def _names(folders: list[Path]) -> list[str]:
    """The folders' names, with their parent's where two are the same."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(
            f"--input names a folder twice: {', '.join(sorted(n for n in set(names) if names.count(n) > 1))}"
        )
    return names


def read_entry(folder: Path, name: str) -> Entry:
    """Reads one graded folder."""
    if not (folder / GRADED).is_file():
        raise UsageError(f"--input {folder} has no {GRADED}; run `scripts/evaluate.py grade --input {folder}` first")
    graded = (read_manifest(folder) or {}).get("grading", {}).get("generations_sha256")
    if graded is not None and graded != fingerprint(folder / GENERATIONS):
        raise UsageError(f"--input {folder}: {GENERATIONS} changed after it was graded; grade it again")
    config = read_config(folder) if (folder / CONFIG).is_file() else {}
    protocol = {key: config[key] for key in PROTOCOL if key in config}
    rows = [{field: row[field] for field in FIELDS} for row in iter_jsonl(folder / GRADED, FIELDS)]
    if not rows:
        raise UsageError(f"{folder / GRADED} has no rows")
    benchmarks = {row["benchmark"] for row in rows}
    scores = {
        benchmark: _scores([row for row in rows if row["benchmark"] == benchmark], f"{folder / GRADED}, {benchmark}")
        for benchmark in [name for name in KNOWN if name in benchmarks] + sorted(benchmarks - set(KNOWN))
    }
    return Entry(name, folder, protocol, scores)


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

    return Scores(
        ids=tuple(ids),
        correct=array(lambda row: int(row["correct"])),
        num_tokens=array(lambda row: row["num_tokens"]),
        truncated=array(lambda row: row["finish_reason"] == "length"),
        no_answer=array(lambda row: row["status"] in ("no_answer", "no_think_end")),
        num_timeouts=sum(row["status"] == "timeout" for row in rows),
        num_errors=sum(row["status"] == "error" for row in rows),
    )


def _check_comparable(first: Entry, other: Entry) -> None:
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
            raise UsageError(f"{first.name} and {other.name} have other problems in {benchmark}, such as '{odd}'")
        if ours.correct.shape != theirs.correct.shape:
            raise UsageError(
                f"{benchmark}: {first.name} has {ours.correct.shape[1]} samples a problem, {other.name} has "
                f"{theirs.correct.shape[1]}: not comparable"
            )


def summarize(entries: list[Entry], baselines: list[Entry]) -> dict[str, Any]:
    """All numbers of the report, as `table.json` holds them; shares are between 0 and 1."""
    return {
        "protocol": _protocol(entries),
        "baselines": [baseline.name for baseline in baselines],
        "rows": [_summarize_entry(entry, baselines) for entry in entries],
    }


def _protocol(entries: list[Entry]) -> dict[str, Any]:
    """What the folders have in common, and the list of values where they may differ; empty if nothing is recorded."""
    values = {key: list(dict.fromkeys(entry.protocol.get(key) for entry in entries)) for key in PROTOCOL}
    return {key: found[0] if len(found) == 1 else found for key, found in values.items() if found != [None]}


def _summarize_entry(entry: Entry, baselines: list[Entry]) -> dict[str, Any]:
    benchmarks = {}
    for name, scores in entry.scores.items():
        mean, sem = pass_at_1(scores.correct)
        num_samples = scores.correct.shape[1]
        ks = [k for k in (1 << power for power in range(20)) if k < num_samples] + [num_samples]
        benchmarks[name] = {
            "num_problems": len(scores.ids),
            "n": num_samples,
            "pass_at_1": mean,
            "sem": sem,
            "pass_at_k": {str(k): pass_at_k(scores.correct, k) for k in ks},
            "mean_tokens": float(scores.num_tokens.mean()),
            "truncated": float(scores.truncated.mean()),
            "no_answer": float(scores.no_answer.mean()),
            "num_timeouts": scores.num_timeouts,
            "num_errors": scores.num_errors,
            "differences": {
                baseline.name: _difference(scores, baseline.scores[name])
                for baseline in baselines
                if baseline is not entry
            },
        }
    mean, sem = mean_of_benchmarks([(b["pass_at_1"], b["sem"]) for b in benchmarks.values()])
    return {"name": entry.name, "average": {"pass_at_1": mean, "sem": sem}, "benchmarks": benchmarks}


def _difference(scores: Scores, baseline: Scores) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), paired_difference(scores.correct, baseline.correct), strict=True))
