"""Adds a teacher's traces to a corpus: reads its problems, and writes it with the traces sampled for them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from redi.data.dataset_folder import new_dataset
from redi.data.reading.rows import Rows, open_rows
from redi.data.reading.schema import DEFAULTS, SCHEMA, check_schema
from redi.data.selection import CUT
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import Benchmark, Problem
from redi.evaluation.files import GENERATIONS
from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.text.prompts import THINK

SUMMARY = "Problems with traces that a teacher wrote for them; verify.py decides which are correct."
TABLE_ROWS = 128  # rows whose traces are in memory together


def problem_id(problem: str) -> str:
    """A problem's id among the samples: a hash of its text, so rows may be added or moved; equal ones share traces."""
    return hashlib.sha256(problem.encode()).hexdigest()[:16]


def read_problems(rows: Rows) -> Benchmark:
    """The distinct problems of a corpus, in its order; rows without a problem are left out."""
    check_schema(rows.schema, rows.source, ("problem", "answer", "generations"), optional=("generations",))
    problems: dict[str, Problem] = {}
    for batch in rows.batches(("problem", "answer")):
        for row in batch.to_pylist():
            if (row["problem"] or "").strip():
                name = problem_id(row["problem"])
                problems.setdefault(name, Problem(name, row["problem"], row["answer"]))
    if not problems:
        raise UsageError(f"--input {rows.source} holds no problems")
    return Benchmark("problems", Path(rows.source), tuple(problems.values()))


def refuse_other_output(output: Path, samples: Path) -> None:
    """Raises a `UsageError` unless `output` is absent, empty, or was made from these samples and may be replaced."""
    inputs = ((read_manifest(output) or {}).get("inputs") or {}).get("samples", {})
    ours = "path" in inputs and Path(inputs["path"]).resolve() == (samples / GENERATIONS).resolve()
    if output.exists() and not ours and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} exists; choose another folder, or pass --overwrite to replace it")


def write_traces(source: str, samples: Path, output: Path, config: dict[str, Any]) -> str:
    """Writes the corpus with the traces of the folder `samples` to `output`; returns what to print.

    The samples follow the generations that a row already has. All columns are kept; missing ones of the raw schema are
    filled in. `finish_reasons` says what ended each trace, null if that is not known. The verifiers' labels of a row
    that got traces are removed, since unlabelled traces would count as negatives; `verify.py` fills them.
    """
    inputs = {"corpus": source, "samples": samples / GENERATIONS}
    tally, reasons = Counter(rows=0, rows_without_problem=0, labels_removed=0, traces_added=0), Counter()
    with new_dataset(output, config, inputs, overwrite=True) as new, inputs["samples"].open("rb") as stream:
        files = write_shards(_with_traces(open_rows(source), stream, tally, reasons), new.folder)
        counts = {"input_rows": tally["rows"], "dropped": {}, "files": files, **tally}
        counts |= {"finish_reasons": dict(reasons), "truncated": {"traces": reasons[CUT]}}
        new.finish(counts, SUMMARY)
    lines = [f"{tally['rows']:,} rows, {tally['traces_added']:,} traces added {dict(reasons)}: {output}"]
    if tally["rows_without_problem"]:
        lines.append(f"{tally['rows_without_problem']:,} rows have no problem and got no traces")
    if tally["labels_removed"]:
        lines.append(f"{tally['labels_removed']:,} rows lost their labels, which do not cover the new traces")
    return "\n".join([*lines, f"next: python data_preprocess/verify.py --input {output} --output ..."])


def _with_traces(rows: Rows, stream: BinaryIO, tally: Counter[str], reasons: Counter[str]) -> Iterator[pa.Table]:
    # Samples are read on demand: together they may be larger than the memory.
    places: dict[str, dict[int, int]] = {}  # problem id -> sample index -> place in the file
    place = 0
    for line in stream:
        sample = json.loads(line)
        places.setdefault(sample["id"], {})[sample["sample_idx"]] = place
        place += len(line)
    schema = {field.name: field for field in rows.schema}
    schema |= {name: SCHEMA.field(name) for name in DEFAULTS if name not in schema}
    schema |= {name: SCHEMA.field(name) for name in ("generations", "finish_reasons")}
    for batch in rows.batches():
        for start in range(0, len(batch), TABLE_ROWS):
            made = batch.slice(start, TABLE_ROWS).to_pylist()
            for row in made:
                asked = bool((row["problem"] or "").strip())
                found = sorted(places[problem_id(row["problem"])].items()) if asked else []
                labelled = asked and row.get("correctness") is not None
                tally.update(rows=1, rows_without_problem=not asked, labels_removed=labelled, traces_added=len(found))
                reasons.update(_add(row, stream, [place for _, place in found]))
                row |= {"correctness": None} if labelled else {}
            yield pa.Table.from_pylist(made, pa.schema(schema.values()))


def _add(row: dict[str, Any], stream: BinaryIO, places: list[int]) -> list[str]:
    """Adds the samples at these places to a row; returns what ended each."""
    before, known = row.get("generations") or [], row.get("finish_reasons") or []
    texts, reasons = [], []
    for place in places:
        stream.seek(place)
        sample = json.loads(stream.readline())
        opened = sample["prompt"].rstrip().endswith(THINK.strip())  # a student has to write the tag
        texts.append(THINK + sample["response"] if opened else sample["response"])
        reasons.append(sample["finish_reason"])
    row["generations"] = before + texts
    row["finish_reasons"] = (known if len(known) == len(before) else [None] * len(before)) + reasons
    for name, value in DEFAULTS.items():
        row.setdefault(name, value)
    return reasons
