"""Adds a teacher's traces to a corpus: reads its problems, and writes it with the traces sampled for them."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import write_card_and_manifest
from redi.data.reading.local_files import Rows, open_rows
from redi.data.reading.schema import DEFAULTS, SCHEMA, check_schema
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import Benchmark, Problem
from redi.evaluation.files import GENERATIONS
from redi.runs.errors import UsageError
from redi.runs.files import new_folder
from redi.runs.manifest import read_manifest
from redi.text.prompts import THINK

NAME = "problems"  # the corpus, as a benchmark to sample
SUMMARY = "Problems with traces that a teacher wrote for them; verify.py decides which are correct."
FINISH_REASONS = "finish_reasons"
CORRECTNESS = "correctness"
TABLE_ROWS = 128  # rows whose traces are in memory together


@dataclass
class TraceTally:
    """What became of the rows of a corpus."""

    rows: int = 0
    rows_without_problem: int = 0
    labels_removed: int = 0
    traces_added: int = 0
    finish_reasons: dict[str, int] = field(default_factory=dict)


def problem_id(problem: str) -> str:
    """A problem's id among the samples: a hash of its text, so rows may be added or moved; equal ones share traces."""
    return hashlib.sha256(problem.encode()).hexdigest()[:16]


def read_problems(rows: Rows) -> Benchmark:
    """The distinct problems of a corpus, in its order; rows without a problem are left out.

    Raises:
        UsageError: `problem` or `answer` is missing or of another type, or all problems are empty.
    """
    check_schema(rows.schema, str(rows.source), ("problem", "answer", "generations"), optional=("generations",))
    problems: dict[str, Problem] = {}
    for batch in rows.batches(("problem", "answer")):
        for row in batch.to_pylist():
            if _has_problem(row["problem"]):
                name = problem_id(row["problem"])
                problems.setdefault(name, Problem(name, row["problem"], row["answer"]))
    if not problems:
        raise UsageError(f"--input {rows.source} holds no problems")
    return Benchmark(NAME, rows.source, tuple(problems.values()))


def add_traces(rows: Rows, generations: Path, tally: TraceTally) -> Iterator[pa.Table]:
    """Yields all rows in order, each with its problem's samples after the generations that it already has.

    All columns are kept; missing ones of the raw schema are filled in. `finish_reasons` says what ended each trace,
    null if that is not known. The verifiers' labels of a row that got traces are removed, since unlabelled traces
    would count as negatives; `verify.py` fills them.

    Args:
        rows: the corpus.
        generations: the `generations.jsonl` of its problems.
        tally: gets what became of the rows.
    """
    traces = _Traces(generations)
    for batch in rows.batches():
        for start in range(0, len(batch), TABLE_ROWS):
            yield _with_traces(pa.table(batch.slice(start, TABLE_ROWS)), traces, tally)


def _with_traces(table: pa.Table, traces: "_Traces", tally: TraceTally) -> pa.Table:
    problems = table["problem"].to_pylist()
    asked = [_has_problem(problem) for problem in problems]
    added = [traces.of(problem_id(problem)) if ask else [] for problem, ask in zip(problems, asked, strict=True)]
    before = [texts or [] for texts in _values(table, "generations")]
    reasons = _values(table, FINISH_REASONS)
    reasons = [old or [None] * len(texts) for old, texts in zip(reasons, before, strict=True)]
    columns = {
        "generations": [old + [text for text, _ in new] for old, new in zip(before, added, strict=True)],
        FINISH_REASONS: [old + [reason for _, reason in new] for old, new in zip(reasons, added, strict=True)],
    }
    for name, values in columns.items():
        table = _set(table, name, pa.array(values, SCHEMA.field("generations").type))
    for name, value in DEFAULTS.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * len(table)))
    if CORRECTNESS in table.column_names:
        labels = table[CORRECTNESS]
        tally.labels_removed += pc.sum(pc.and_(pa.array(asked), labels.is_valid())).as_py() or 0
        table = _set(table, CORRECTNESS, pc.if_else(pa.array(asked), pa.scalar(None, labels.type), labels))
    tally.rows += len(table)
    tally.rows_without_problem += asked.count(False)
    for _, reason in (trace for new in added for trace in new):
        tally.traces_added += 1
        tally.finish_reasons[reason] = tally.finish_reasons.get(reason, 0) + 1
    return table


def _has_problem(problem: str | None) -> bool:
    return problem is not None and bool(problem.strip())


def _values(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _set(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, values)
    return table.set_column(table.column_names.index(name), name, values)


class _Traces:
    """The samples in a file, read on demand: together they may be larger than the memory."""

    def __init__(self, generations: Path):
        self._stream = generations.open("rb")
        self._places: dict[str, dict[int, int]] = {}  # problem id -> sample index -> place in the file
        place = 0
        for line in self._stream:
            row = json.loads(line)
            self._places.setdefault(row["id"], {})[row["sample_idx"]] = place
            place += len(line)

    def of(self, name: str) -> list[tuple[str, str]]:
        """A problem's traces, in the order of their sample indices, and why each ended.

        If the prompt opened the thought, the trace does too, since a student has to write it.
        """
        traces = []
        for _, place in sorted(self._places[name].items()):
            self._stream.seek(place)
            row = json.loads(self._stream.readline())
            opened = row["prompt"].rstrip().endswith(THINK.strip())
            traces.append((THINK + row["response"] if opened else row["response"], row["finish_reason"]))
        return traces


def refuse_other_output(output: Path, samples: Path) -> None:
    """Raises a `UsageError` unless `output` is absent, empty, or was made from these samples and may be replaced."""
    manifest = read_manifest(output) if output.is_dir() else None
    made_of = (manifest or {}).get("inputs", {}).get("samples", {}).get("path")
    ours = made_of is not None and Path(made_of).resolve() == (samples / GENERATIONS).resolve()
    if output.exists() and not ours and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} exists; choose another folder, or pass --overwrite to replace it")


def write_traces(source: str, samples: Path, output: Path, config: dict[str, Any]) -> str:
    """Writes the corpus with the traces of the folder `samples` to `output`; returns what to print."""
    started = time.time()
    inputs = {"corpus": source, "samples": samples / GENERATIONS}
    tally = TraceTally()
    with new_folder(output, overwrite=True) as folder:
        files = write_shards(add_traces(open_rows(source), inputs["samples"], tally), folder)
        counts = {"input_rows": tally.rows, "dropped": {}, "files": files} | asdict(tally)
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        write_card_and_manifest(folder, output, SUMMARY, **about)
    lines = [f"{tally.rows:,} rows, {tally.traces_added:,} traces added {tally.finish_reasons}: {output}"]
    if tally.rows_without_problem:
        lines.append(f"{tally.rows_without_problem:,} rows have no problem and got no traces")
    if tally.labels_removed:
        lines.append(f"{tally.labels_removed:,} rows lost their labels, which do not cover the new traces")
    return "\n".join([*lines, f"next: python data_preprocess/verify.py --input {output} --output ..."])
