"""Fills verifier columns with the project's grader, which compares each generation with its row's answer.

The grader reads the text after the last `</think>`. A trace that never ends its thought is not accepted, whatever the
thought says; most such traces were cut off at a token limit. All columns that the grader fills hold the same verdict.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import REPORT, is_done, new_dataset
from redi.data.reading.rows import Rows, open_rows
from redi.data.reading.schema import CORRECTNESS, SCHEMA, VERIFIERS, check_schema, column_of, path_of
from redi.data.shuffle import write_shards
from redi.evaluation.grading.verdict import STATUSES, THINK_END, Grade, grade_many
from redi.runs.errors import UsageError
from redi.runs.markdown import grid

SUMMARY = "A corpus of traces with verifier columns filled by the project's grader."
NUM_EXAMPLES = 20  # kept in the report, of each kind of disagreement
# The grader's verdict on a generation, and its label.
KINDS = {(True, True): "both accept", (True, False): "only ours"}
KINDS |= {(False, True): "only theirs", (False, False): "neither", (True, None): "no label", (False, None): "no label"}
AGREEMENTS = tuple(dict.fromkeys(KINDS.values()))

Grades = list[list[Grade] | None]  # of each row's generations; None without generations or without an answer


@dataclass
class GradeReport:
    """The content of `report.json`."""

    number_answers: int  # graded as their text
    rows: int = 0
    rows_without_answer: int = 0  # null or blank; their generations are not graded
    rows_without_generations: int = 0  # but with an answer
    generations: int = 0  # that were graded
    accepted: int = 0
    statuses: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    filled_rows: Counter[str] = field(default_factory=Counter)  # verifier column -> rows whose list was written
    agreement: dict[str, Counter[str]] = field(default_factory=dict)  # column of labels -> generations by `AGREEMENTS`
    examples: list[dict[str, Any]] = field(default_factory=list)  # the first disagreements of each kind and column


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

    The source has `answer` and `generations`. Missing lists of `columns` are written, and with `overwrite_labels`
    existing ones too; rows without an answer keep what they have. `whole_traces` grades a trace without `</think>`
    from its beginning. Returns the report as text, with `show` disagreements of each kind.
    """
    if report_only and overwrite_labels:
        raise UsageError("--overwrite-labels has nothing to overwrite with --report-only; leave one of them out")
    if workers == 0:
        raise UsageError("--workers 0: at least one worker is needed; leave it out for one per core")
    config = {"columns": list(columns), "overwrite_labels": overwrite_labels, "whole_traces": whole_traces}
    config, inputs = config | {"report_only": report_only}, {"corpus": source}
    if is_done(output, config, inputs, overwrite):
        return f"{output}: already done\n{_describe(output, show)}"
    with new_dataset(output, config, inputs, overwrite) as new:
        rows = open_rows(source)
        check_schema(rows.schema, source, ("answer", "generations", *VERIFIERS), optional=VERIFIERS)
        if rows.num_rows == 0:
            raise UsageError(f"--input {source} has no rows")
        report = GradeReport(rows.number_answers)
        grade = partial(_grade, report=report, whole_traces=whole_traces, workers=workers)
        labelled = _with_labels(rows, report, grade, () if report_only else columns, overwrite_labels)
        files = write_shards(labelled, new.folder)
        counts = {"input_rows": report.rows, "dropped": {}, "files": files} | vars(report)
        del counts["examples"]
        new.finish(counts, None if report_only else SUMMARY, report=vars(report))
    return _describe(output, show)


def _with_labels(
    rows: Rows, report: GradeReport, grade: Callable[..., Grades], columns: Sequence[str], overwrite_labels: bool
) -> Iterator[pa.Table]:
    """Yields all rows in order with `columns` filled, none if there are no `columns`, and counts into `report`."""
    for batch in rows.batches():
        answers = batch["answer"].to_pylist()
        grades = grade(answers, batch["generations"].to_pylist())
        fields = _correctness(batch)
        labels = {name: array.to_pylist() for name, array in fields.items() if array.type == pa.list_(pa.bool_())}
        for name, lists in labels.items():
            _compare(answers, name, lists, grades, report)
        for name in columns:
            lists = labels.get(name, [None] * len(batch))
            made = [
                theirs if ours is None or not (overwrite_labels or theirs is None) else [g.correct for g in ours]
                for theirs, ours in zip(lists, grades, strict=True)
            ]
            report.filled_rows[name] += sum(new is not old for new, old in zip(made, lists, strict=True))
            fields[name] = pa.array(made, SCHEMA.field(name).type)
        if columns:
            struct = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
            arrays = {name: batch[name] for name in batch.schema.names} | {CORRECTNESS: struct}
            yield pa.table(arrays)  # without the metadata of `datasets`, which would state the old type


def _correctness(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """The fields of `correctness`, and the verifier lists that are separate columns."""
    type_ = batch.schema.field(CORRECTNESS).type if CORRECTNESS in batch.schema.names else pa.null()
    names = [field.name for field in type_] if pa.types.is_struct(type_) else []
    flat = [name for name in VERIFIERS if name not in names and path_of(batch.schema, name)]
    fields = {name: pc.struct_field(batch[CORRECTNESS], name) for name in names}
    return fields | {name: column_of(batch, name) for name in flat}


def _grade(
    answers: list[Any], generations: list[Any], report: GradeReport, whole_traces: bool, workers: int | None
) -> Grades:
    known = (bool(answer and answer.strip()) for answer in answers)
    rows = [texts or [] if has_answer else None for has_answer, texts in zip(known, generations, strict=True)]
    responses = [text or "" for texts in rows for text in texts or []]
    if whole_traces:
        responses = [text if THINK_END in text else THINK_END + text for text in responses]
    golds = [answer for answer, texts in zip(answers, rows, strict=True) for _ in texts or []]
    flat = grade_many(responses, golds, workers, progress=False)
    report.rows += len(rows)
    report.rows_without_answer += rows.count(None)
    report.rows_without_generations += rows.count([])
    report.generations += len(flat)
    report.statuses.update(grade.status for grade in flat)
    report.accepted += sum(grade.correct for grade in flat)
    grades = iter(flat)
    return [list(islice(grades, len(texts))) if texts else None for texts in rows]


def _compare(
    answers: list[str], column: str, labels: list[list[bool | None] | None], grades: Grades, report: GradeReport
) -> None:
    """Compares the last batch's grades with the labels in a column."""
    counts = report.agreement.setdefault(column, Counter(dict.fromkeys(AGREEMENTS, 0)))
    for row, (theirs, ours) in enumerate(zip(labels, grades, strict=True)):
        fits = theirs is not None and ours is not None and len(theirs) == len(ours)
        for number, grade in enumerate(ours or []):
            kind = KINDS[grade.correct, theirs[number] if fits else None]
            counts[kind] += 1
            if kind.startswith("only") and counts[kind] <= NUM_EXAMPLES:
                found = {"answer": answers[row], "found": grade.answer, "status": grade.status}
                place = {"row": report.rows - len(answers) + row, "generation": number}
                report.examples.append({"column": column, "kind": kind} | place | found)


def _describe(output: Path, show: int) -> str:
    found = json.loads((output / REPORT).read_text(encoding="utf-8"))
    accepted, total = found["accepted"], found["generations"]
    share = f" ({accepted / total:.1%})" if total else ""
    lines = [f"{found['rows']:,} rows, {total:,} generations graded, {accepted:,} accepted{share}"]
    for key in ("rows_without_answer", "rows_without_generations"):
        if found[key]:
            lines.append(f"{found[key]:,} {key.replace('_', ' ')}, not graded")
    lines += [f"{name}: filled in {count:,} rows" for name, count in found["filled_rows"].items()]
    if found["statuses"]["no_think_end"] == total > 0:
        lines.append("no generation has </think>; for a teacher that does not think aloud, pass --whole-traces")
    parts = ["\n".join(lines), grid(["status", "generations"], list(map(list, found["statuses"].items())))]
    rows = []
    for name, counts in found["agreement"].items():
        labelled = sum(counts.values()) - counts["no label"]
        share = f"{100 * (counts['both accept'] + counts['neither']) / labelled:.2f}" if labelled else "-"
        rows.append([name, *(counts[kind] for kind in AGREEMENTS), share])
    if rows:
        parts.append(grid(["labels", *AGREEMENTS, "agree (%)"], rows))
    shown = Counter()
    for example in found["examples"]:
        kind = f"{example['column']}, {example['kind']}"
        shown[kind] += 1
        if shown[kind] <= show:
            place = f"row {example['row']}, generation {example['generation']}: answer {example['answer']!r}"
            parts.append(f"{kind}: {place}, found {example['found']!r} ({example['status']})")
    return "\n\n".join([*parts, f"Report: {output / REPORT}"])
