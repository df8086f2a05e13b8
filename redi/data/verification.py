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
from redi.data.reading.rows import Rows, open_rows
from redi.data.reading.schema import SCHEMA, VERIFIERS, check_schema, column_of, path_of
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

Grades = list[list[Grade] | None]  # of each row's generations; None without generations or without an answer
Labels = dict[str, list[list[bool | None] | None]]  # verifier column -> the list of each row


@dataclass
class GradeReport:
    """The content of `report.json`.

    Attributes:
        rows: read; without_answer: with a null or blank answer, whose generations are not graded.
        rows_without_generations: with an answer and no generations.
        number_answers: answers that are numbers, graded as their text.
        generations, accepted: graded, and correct.
        statuses: graded generations by the status of their grade.
        filled_rows: verifier column -> rows whose list was written.
        agreement: column of labels -> graded generations by `AGREEMENTS`.
        examples: the first `NUM_EXAMPLES` disagreements of each kind and column.
    """

    rows: int = 0
    rows_without_answer: int = 0
    rows_without_generations: int = 0
    number_answers: int = 0
    generations: int = 0
    accepted: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    filled_rows: Counter[str] = field(default_factory=Counter)
    agreement: dict[str, Counter[str]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


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
        source: a corpus with `answer` and `generations`.
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
    if (output / REPORT).is_file() and not overwrite and is_complete(output, config, inputs):
        return f"{output}: already done\n{_describe(output, show)}"
    started = time.time()
    rows = open_rows(source)
    check_rows(rows)
    report = GradeReport(number_answers=rows.number_answers)
    with new_folder(output, overwrite, inputs.values()) as folder:
        labelled = with_labels(rows, report, () if report_only else columns, overwrite_labels, whole_traces, workers)
        files = {} if report_only else write_shards(labelled, folder)
        list(labelled)  # grades the rows if none are written
        write_text(folder / REPORT, json.dumps(vars(report), indent=1) + "\n")
        counts = {"input_rows": report.rows, "dropped": {}, "files": files} | vars(report)
        del counts["examples"]
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        if report_only:
            write_manifest(folder, **about)
        else:
            write_card_and_manifest(folder, output, SUMMARY, **about)
    return _describe(output, show)


def check_rows(rows: Rows) -> None:
    """Checks that the rows can be graded.

    Raises:
        UsageError: there are none; `answer` or `generations` is missing; or one of them or of the verifier columns is
            of another type.
    """
    check_schema(rows.schema, str(rows.source), ("answer", "generations", *VERIFIERS), optional=VERIFIERS)
    type_ = rows.schema.field(CORRECTNESS).type if CORRECTNESS in rows.schema.names else pa.null()
    if not pa.types.is_null(type_) and not pa.types.is_struct(type_):
        raise UsageError(
            f"--input {rows.source}: column '{CORRECTNESS}' is {type_}; it must be a struct of verifier lists"
        )
    if rows.num_rows == 0:
        raise UsageError(f"--input {rows.source} has no rows")


def with_labels(
    rows: Rows,
    report: GradeReport,
    columns: Sequence[str],
    overwrite_labels: bool = False,
    whole_traces: bool = False,
    workers: int | None = None,
) -> Iterator[pa.Table]:
    """Yields all rows in order with verifier columns filled, and counts into `report`.

    Missing lists are written, and with `overwrite_labels` existing ones too. Rows without an answer keep what they
    have. Fields of `correctness` that are not among `columns` are unchanged.

    Args:
        rows: with `answer` and `generations`, checked by `check_rows`.
        report: is added to.
        columns: the verifier columns to fill, of `VERIFIERS`; without any, only what is graded is read, and no rows
            come out.
        overwrite_labels: replace existing labels.
        whole_traces: grade a trace without `</think>` from its beginning.
        workers: processes of the grader; None is one per core.
    """
    paths = {path_of(rows.schema, name) for name in VERIFIERS} - {None}
    places = {path.partition(".")[0] for path in paths} | {CORRECTNESS} & set(rows.schema.names)
    for batch in rows.batches(None if columns else ["answer", "generations", *sorted(places)]):
        grades = _grade(batch, report, whole_traces, workers)
        fields = _correctness(batch)
        labels = _compare(batch, fields, grades, report)
        for name in columns:
            lists = labels.get(name, [None] * len(batch))
            filled = [
                i for i, ours in enumerate(grades) if ours is not None and (overwrite_labels or lists[i] is None)
            ]
            for i in filled:
                lists[i] = [grade.correct for grade in grades[i]]
            fields[name] = pa.array(lists, SCHEMA.field(name).type)
            report.filled_rows[name] += len(filled)
        if columns:
            table = pa.Table.from_batches([batch])
            struct = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
            place = table.schema.get_field_index(CORRECTNESS)
            table = (
                table.append_column(CORRECTNESS, struct) if place < 0 else table.set_column(place, CORRECTNESS, struct)
            )
            # The metadata that `datasets` writes would state the old type of `correctness`.
            yield table.replace_schema_metadata(None)


def _correctness(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The fields of `correctness`, and the verifier lists that are columns of their own."""
    type_ = batch.schema.field(CORRECTNESS).type if CORRECTNESS in batch.schema.names else pa.null()
    names = [type_.field(i).name for i in range(type_.num_fields)]
    fields = {name: pc.struct_field(batch[CORRECTNESS], name) for name in names}
    return fields | {
        name: column_of(batch, name) for name in VERIFIERS if name not in names and path_of(batch.schema, name)
    }


def _grade(batch: pa.RecordBatch, report: GradeReport, whole_traces: bool, workers: int | None) -> Grades:
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
    report.rows += len(batch)
    report.rows_without_answer += len(batch) - sum(has_answer)
    report.rows_without_generations += sum(has_answer) - sum(graded)
    report.generations += len(flat)
    report.statuses.update(grade.status for grade in flat)
    report.accepted += sum(grade.correct for grade in flat)
    grades = iter(flat)
    return [[next(grades) for _ in texts] if ok else None for texts, ok in zip(generations, graded, strict=True)]


def _compare(batch: pa.RecordBatch, fields: dict[str, pa.Array], grades: Grades, report: GradeReport) -> Labels:
    """Compares the grades with each field that holds labels, and returns these labels."""
    labels = {name: array.to_pylist() for name, array in fields.items() if array.type == pa.list_(pa.bool_())}
    first_row = report.rows - len(batch)
    for name, lists in labels.items():
        counts = report.agreement.setdefault(name, Counter(dict.fromkeys(AGREEMENTS, 0)))
        for row, (theirs, ours) in enumerate(zip(lists, grades, strict=True)):
            fits = theirs is not None and ours is not None and len(theirs) == len(ours)
            for number, grade in enumerate(ours or []):
                kind = _agreement(grade.correct, theirs[number] if fits else None)
                counts[kind] += 1
                if kind.startswith("only") and counts[kind] <= NUM_EXAMPLES:
                    found = {"answer": batch["answer"][row].as_py(), "found": grade.answer, "status": grade.status}
                    place = {"column": name, "kind": kind, "row": first_row + row, "generation": number}
                    report.examples.append(place | found)
    return labels


def _agreement(ours: bool, theirs: bool | None) -> str:
    if theirs is None:
        return "no label"
    if ours == theirs:
        return "both accept" if ours else "neither"
    return "only ours" if ours else "only theirs"


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
        parts.append(_agreement_table(found["agreement"]))
    if show and found["examples"]:
        parts.append(_examples(found["examples"], show))
    return "\n\n".join([*parts, f"Report: {output / REPORT}"])


def _agreement_table(agreement: dict[str, dict[str, int]]) -> str:
    lines = []
    for name, counts in agreement.items():
        labelled = sum(counts.values()) - counts["no label"]
        share = f"{100 * (counts['both accept'] + counts['neither']) / labelled:.2f}" if labelled else "-"
        lines.append([name, *(counts[kind] for kind in AGREEMENTS), share])
    return grid(["labels", *AGREEMENTS, "agree (%)"], lines)


def _examples(examples: list[dict[str, Any]], number: int) -> str:
    """The first disagreements of each column and kind, one line each."""
    shown: Counter[str] = Counter()
    lines = []
    for example in examples:
        kind = f"{example['column']}, {example['kind']}"
        shown[kind] += 1
        if shown[kind] <= number:
            lines.append(
                f"{kind}: row {example['row']}, generation {example['generation']}: answer {example['answer']!r}, "
                f"found {example['found']!r} ({example['status']})"
            )
    return "\n".join(lines)
