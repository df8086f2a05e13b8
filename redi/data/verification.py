"""Fills verifier columns with the project's grader, which compares each generation with its row's answer.

The grader reads the text after the last `</think>`. A trace that never ends its thought is not accepted, whatever the
thought says; most such traces were cut off at a token limit. A teacher that does not think aloud writes no tag:
`whole_traces` grades a trace without a tag from its beginning.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import is_complete, refuse_output_over_input, write_card_and_manifest
from redi.data.reading.local_files import Rows, open_rows
from redi.data.reading.schema import SCHEMA, VERIFIERS, check_schema
from redi.data.shuffle import write_shards
from redi.evaluation.grading.verdict import STATUSES, THINK_END, Grade, grade_many
from redi.runs.errors import UsageError
from redi.runs.files import new_folder, write_text
from redi.runs.manifest import write_manifest
from redi.runs.markdown import grid

CORRECTNESS = "correctness"
REPORT = "report.json"
SUMMARY = "A corpus of traces with verifier columns filled by the project's grader."
NUM_EXAMPLES = 20  # kept in the report, of each kind of disagreement
# The grader's verdict and a label, for one generation.
AGREEMENTS = ("both accept", "only ours", "only theirs", "neither", "no label")


def verify(
    source: str,
    output: Path,
    *,
    columns: Sequence[str] = VERIFIERS,
    overwrite_labels: bool = False,
    whole_traces: bool = False,
    report_only: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    show: int = 0,
) -> str:
    """Writes `report.json` and `manifest.json` to `output`, and the corpus with its verifier columns filled.

    Args:
        source: parquet or JSON lines with `answer` and `generations`.
        output: the folder.
        columns, overwrite_labels, whole_traces, workers: as in `with_labels`.
        report_only: write no corpus.
        overwrite: grade again, and replace `output`.
        show: disagreements of each kind in the text returned.

    Returns:
        The report as text, to be printed.
    """
    if report_only and overwrite_labels:
        raise UsageError("--overwrite-labels has nothing to overwrite with --report-only; leave one of them out")
    if workers == 0:
        raise UsageError("--workers 0: at least one worker is needed; leave it out for one per core")
    inputs = {"corpus": source}
    config = {
        "columns": list(columns),
        "overwrite_labels": overwrite_labels,
        "whole_traces": whole_traces,
        "report_only": report_only,
    }
    refuse_output_over_input(output, inputs)
    done = ""
    if (output / REPORT).is_file() and not overwrite and is_complete(output, config, inputs):
        done = f"{output}: already done\n"
    else:
        _write(output, config, inputs, workers, overwrite)
    return done + _describe(output, show)


def _write(output: Path, config: dict[str, Any], inputs: dict[str, str], workers: int | None, overwrite: bool) -> None:
    started = time.time()
    rows, tally = open_rows(inputs["corpus"]), GradeTally()
    check_rows(rows)
    if rows.num_rows == 0:
        raise UsageError(f"--input {rows.source} has no rows")
    with new_folder(output, overwrite) as folder:
        if config["report_only"]:
            compare_only(rows, tally, config["whole_traces"], workers)
            files = {}
        else:
            labels = (config["columns"], config["overwrite_labels"], config["whole_traces"], workers)
            files = write_shards(with_labels(rows, tally, *labels), folder)
        found = make_report(tally)
        write_text(folder / REPORT, json.dumps(found, indent=1) + "\n")
        counts = {"input_rows": tally.num_rows, "dropped": {}, "files": files}
        counts |= {key: value for key, value in found.items() if key != "examples"}
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        if files:
            write_card_and_manifest(folder, output, SUMMARY, **about)
        else:
            write_manifest(folder, **about)


def _describe(output: Path, show: int) -> str:
    found = json.loads((output / REPORT).read_text(encoding="utf-8"))
    accepted, total = found["accepted"], found["generations"]
    share = f" ({accepted / total:.1%})" if total else ""
    lines = [f"{found['rows']:,} rows, {total:,} generations graded, {accepted:,} accepted{share}"]
    lines += [
        f"{found[key]:,} {key.replace('_', ' ')}, not graded"
        for key in ("rows_without_answer", "rows_without_generations")
        if found[key]
    ]
    lines += [f"{name}: filled in {count:,} rows" for name, count in found["filled_rows"].items()]
    if found["statuses"]["no_think_end"] == total > 0:
        lines.append("no generation has </think>; for a teacher that does not think aloud, pass --whole-traces")
    parts = ["\n".join(lines), grid(["status", "generations"], list(map(list, found["statuses"].items())))]
    if found["agreement"]:
        parts.append(agreement_table(found))
    if show and found["examples"]:
        parts.append(examples(found, show))
    return "\n\n".join([*parts, f"Report: {output / REPORT}"])


@dataclass
class GradeTally:
    """The grades so far.

    Attributes:
        num_rows: rows read.
        without_answer: rows with a null or blank answer; their generations are not graded.
        without_generations: rows with an answer and no generations.
        statuses: graded generations by the status of their grade.
        accepted: graded generations that are correct.
        filled_rows: verifier column -> rows whose list was written.
        agreement: column of labels -> graded generations by `AGREEMENTS`.
        examples: the first `NUM_EXAMPLES` disagreements of each kind and column.
    """

    num_rows: int = 0
    without_answer: int = 0
    without_generations: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    accepted: int = 0
    filled_rows: Counter[str] = field(default_factory=Counter)
    agreement: dict[str, Counter[str]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


def check_rows(rows: Rows) -> None:
    """Checks that the rows can be graded.

    Raises:
        UsageError: `answer` or `generations` is missing, or one of them or of the verifier columns is of another type.
    """
    where = str(rows.source)
    check_schema(rows.schema, where, ("answer", "generations", *VERIFIERS), optional=VERIFIERS)
    if CORRECTNESS in rows.schema.names and _label_fields(rows.schema) is None:
        type_ = rows.schema.field(CORRECTNESS).type
        raise UsageError(f"--input {where}: column '{CORRECTNESS}' is {type_}; it must be a struct of verifier lists")


def _label_fields(schema: pa.Schema) -> list[pa.Field] | None:
    """The fields of `correctness`: none if the column does not exist, None if it is not a struct."""
    type_ = schema.field(CORRECTNESS).type if CORRECTNESS in schema.names else pa.null()
    if pa.types.is_null(type_):
        return []
    return [type_.field(i) for i in range(type_.num_fields)] if pa.types.is_struct(type_) else None


def with_labels(
    rows: Rows,
    tally: GradeTally,
    columns: Sequence[str] = VERIFIERS,
    overwrite_labels: bool = False,
    whole_traces: bool = False,
    workers: int | None = None,
) -> Iterator[pa.Table]:
    """Yields all rows in order with verifier columns filled, and counts into `tally`.

    Missing lists are written, and with `overwrite_labels` existing ones too. Rows without an answer keep what they
    have. Fields of `correctness` that are not among `columns` are unchanged.

    Args:
        rows: with `answer` and `generations`, checked by `check_rows`.
        tally: is added to.
        columns: the verifier columns to fill, of `VERIFIERS`.
        overwrite_labels: replace existing labels.
        whole_traces: grade a trace without `</think>` from its beginning.
        workers: processes of the grader; None is one per core.
    """
    fields = _label_fields(rows.schema)
    for batch in rows.batches():
        grades = _grade(batch, tally, whole_traces, workers)
        labels = _compare(batch, fields, grades, tally)
        old = {field.name: pc.struct_field(batch[CORRECTNESS], field.name) for field in fields}
        new = {
            name: _filled(name, labels.get(name, [None] * len(batch)), grades, overwrite_labels, tally)
            for name in columns
        }
        columns_of_struct = old | new
        struct = pa.StructArray.from_arrays(list(columns_of_struct.values()), names=list(columns_of_struct))
        place = batch.schema.get_field_index(CORRECTNESS)
        batch = batch.append_column(CORRECTNESS, struct) if place < 0 else batch.set_column(place, CORRECTNESS, struct)
        # The metadata that `datasets` writes would state the old type of `correctness`.
        yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def compare_only(rows: Rows, tally: GradeTally, whole_traces: bool = False, workers: int | None = None) -> None:
    """Grades the rows and compares with the existing labels, without writing any."""
    fields = _label_fields(rows.schema)
    for batch in rows.batches(["answer", "generations", *([CORRECTNESS] if fields else [])]):
        _compare(batch, fields, _grade(batch, tally, whole_traces, workers), tally)


def _grade(
    batch: pa.RecordBatch, tally: GradeTally, whole_traces: bool, workers: int | None
) -> list[list[Grade] | None]:
    """The grades of each row's generations; None without generations or without an answer."""
    answers, generations = batch["answer"].to_pylist(), batch["generations"].to_pylist()
    has_answer = [bool(answer and answer.strip()) for answer in answers]
    graded = [known and bool(texts) for known, texts in zip(has_answer, generations, strict=True)]
    responses, golds = [], []
    for answer, texts, wanted in zip(answers, generations, graded, strict=True):
        for text in texts if wanted else []:
            text = text or ""
            responses.append(THINK_END + text if whole_traces and THINK_END not in text else text)
            golds.append(answer)
    flat = grade_many(responses, golds, workers, progress=False)
    tally.num_rows += len(batch)
    tally.without_answer += len(batch) - sum(has_answer)
    tally.without_generations += sum(has_answer) - sum(graded)
    tally.statuses.update(grade.status for grade in flat)
    tally.accepted += sum(grade.correct for grade in flat)
    grades = iter(flat)
    return [[next(grades) for _ in texts] if ok else None for texts, ok in zip(generations, graded, strict=True)]


def _compare(
    batch: pa.RecordBatch, fields: list[pa.Field], grades: list[list[Grade] | None], tally: GradeTally
) -> dict[str, list[list[bool | None] | None]]:
    """Compares the grades with each field of `correctness` that holds labels, and returns these labels by field."""
    labels = {
        field.name: pc.struct_field(batch[CORRECTNESS], field.name).to_pylist()
        for field in fields
        if pa.types.is_list(field.type) and pa.types.is_boolean(field.type.value_type)
    }
    first_row = tally.num_rows - len(batch)
    for name, lists in labels.items():
        counts = tally.agreement.setdefault(name, Counter(dict.fromkeys(AGREEMENTS, 0)))
        for row, (theirs, ours) in enumerate(zip(lists, grades, strict=True), first_row):
            if ours is None:
                continue
            if theirs is None or len(theirs) != len(ours):
                counts["no label"] += len(ours)
                continue
            for number, (label, grade) in enumerate(zip(theirs, ours, strict=True)):
                kind = _agreement(grade.correct, label)
                counts[kind] += 1
                if kind.startswith("only") and counts[kind] <= NUM_EXAMPLES:
                    answer = batch["answer"][row - first_row].as_py()
                    found = {"row": row, "generation": number, "answer": answer, "found": grade.answer}
                    tally.examples.append({"column": name, "kind": kind, **found, "status": grade.status})
    return labels


def _agreement(ours: bool, theirs: bool | None) -> str:
    if theirs is None:
        return "no label"
    if ours == theirs:
        return "both accept" if ours else "neither"
    return "only ours" if ours else "only theirs"


def _filled(
    name: str,
    labels: list[list[bool | None] | None],
    grades: list[list[Grade] | None],
    overwrite: bool,
    tally: GradeTally,
) -> pa.Array:
    lists = []
    for theirs, ours in zip(labels, grades, strict=True):
        if ours is not None and (overwrite or theirs is None):
            lists.append([grade.correct for grade in ours])
            tally.filled_rows[name] += 1
        else:
            lists.append(theirs)
    return pa.array(lists, SCHEMA.field(name).type)


def make_report(tally: GradeTally) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "rows": tally.num_rows,
        "rows_without_answer": tally.without_answer,
        "rows_without_generations": tally.without_generations,
        "generations": tally.statuses.total(),
        "accepted": tally.accepted,
        "statuses": dict(tally.statuses),
        "filled_rows": dict(tally.filled_rows),
        "agreement": {name: dict(counts) for name, counts in tally.agreement.items()},
        "examples": tally.examples,
    }


def agreement_table(report: dict[str, Any]) -> str:
    """The agreement with each column of labels as a Markdown table, in generations."""
    lines = []
    for name, counts in report["agreement"].items():
        labelled = sum(counts.values()) - counts["no label"]
        agreed = counts["both accept"] + counts["neither"]
        share = f"{100 * agreed / labelled:.2f}" if labelled else "-"
        lines.append([name, *(counts[kind] for kind in AGREEMENTS), share])
    return grid(["labels", *AGREEMENTS, "agree (%)"], lines)


def examples(report: dict[str, Any], number: int) -> str:
    """The first disagreements of each column and kind, one line each."""
    lines, shown = [], Counter()
    for example in report["examples"]:
        kind = (example["column"], example["kind"])
        shown[kind] += 1
        if shown[kind] <= number:
            lines.append(
                f"{example['column']}, {example['kind']}: row {example['row']}, generation {example['generation']}: "
                f"answer {example['answer']!r}, found {example['found']!r} ({example['status']})"
            )
    return "\n".join(lines)
