"""Reports which rows share text with the benchmarks, and drops them on request."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.dataset_folder import REPORT, count_table, is_done, new_dataset
from redi.data.overlap_index import OverlapIndex, Question, find_overlaps
from redi.data.reading.rows import open_rows
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import load_benchmarks
from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import read_manifest
from redi.runs.markdown import grid

SUMMARY = "The rows of a dataset whose problem shares no n-gram with a question of the benchmarks, unchanged."
OVERLAPS = "overlaps a benchmark"  # the reason for a drop


def decontaminate(
    source: str,
    output: Path,
    *,
    benchmark: Sequence[str],
    benchmark_folder: Path,
    jsonl: Sequence[Path],
    ngram_words: int,
    drop: bool,
    overwrite: bool,
    show: int,
) -> str:
    """Writes `report.json` and `manifest.json` to `output`, and with `drop` the rows without overlaps.

    Args:
        source: rows with `problem`, or positives or pairs.
        output: the folder.
        benchmark, benchmark_folder, jsonl: the questions, as in `load_questions`.
        ngram_words: consecutive words that make an overlap.
        drop: write the remaining rows.
        overwrite: check again, and replace `output`.
        show: overlaps per benchmark in the text returned.

    Returns:
        The report as text, to be printed.
    """
    if ngram_words == 0:
        raise UsageError("--ngram-words 0: an overlap has at least 1 word; the original's has 8")
    questions = load_questions(benchmark, benchmark_folder, jsonl)
    inputs = {"corpus": source} | {path.stem: str(path) for path in questions}
    config = {"ngram_words": ngram_words, "drop": drop, "benchmarks": [path.stem for path in questions]}
    if is_done(output, config, inputs, overwrite):
        return f"{output}: already done\n{_describe(output, drop, show)}"
    with new_dataset(output, config, inputs, overwrite) as new:
        rows = open_rows(source)
        column = problem_column(rows.schema, source)
        index, tally, files = OverlapIndex(chain(*questions.values()), ngram_words), OverlapTally(), {}
        kept = without_overlaps(rows.batches(None if drop else [column]), column, index, tally)
        if drop:
            files = write_shards(kept, new.folder)
            if not files:
                raise UsageError(f"--input {source}: no rows are left of {tally.num_rows}; nothing is written")
        list(kept)  # checks the rows if none are written
        counts = {"input_rows": tally.num_rows, "overlapping_rows": len(tally.overlaps), "files": files}
        if drop:
            counts |= {"dropped": {OVERLAPS: len(tally.overlaps)}, "rows": sum(files.values())}
        new.finish(counts, SUMMARY if drop else None, report=make_report(tally, index))
    return _describe(output, drop, show)


def _describe(output: Path, drop: bool, show: int) -> str:
    found = json.loads((output / REPORT).read_text(encoding="utf-8"))
    parts = [report_table(found)]
    if found["rows_without_problem"]:
        parts.append(f"Rows without a problem, with nothing to compare: {found['rows_without_problem']:,}")
    if show and found["overlaps"]:
        parts.append(examples(found, show))
    if drop:
        manifest = read_manifest(output, "counts.input_rows", "counts.dropped", "counts.rows")
        parts.append(count_table(manifest["counts"]))
    return "\n\n".join([*parts, f"Every overlap: {output / REPORT}"])


def load_questions(names: Sequence[str], folder: Path, jsonl: Sequence[Path]) -> dict[Path, list[Question]]:
    """The questions of benchmarks, by file.

    Args:
        names: known names, looked up in `folder`, or files with `id, problem, answer`.
        folder: of the known benchmarks.
        jsonl: files of which only `problem` is read, and `id` if they have it.

    Raises:
        UsageError: a benchmark is missing or malformed, or two have the same name.
    """
    benchmarks = load_benchmarks(list(names), folder)
    found = {b.path: [Question(b.name, row.id, row.problem) for row in b.problems] for b in benchmarks}
    for path in jsonl:
        if path.stem in {known.stem for known in found}:
            raise UsageError(f"--jsonl {path}: another benchmark is named '{path.stem}' too; rename the file")
        found[path] = []
        for number, row in enumerate(iter_jsonl(path, ("problem",)), 1):
            if not isinstance(row["problem"], str) or not row["problem"].strip():
                raise UsageError(f"--jsonl {path}, row {number}: 'problem' is empty or not text")
            found[path].append(Question(path.stem, str(row.get("id", f"row {number}")), row["problem"]))
        if not found[path]:
            raise UsageError(f"--jsonl {path} has no rows")
    return found


def problem_column(schema: pa.Schema, source: str) -> str:
    """The column with the problem: `problem`, or the user turn of `messages` (positives), or `prompt` (pairs).

    Raises:
        UsageError: none of these columns exists, or it holds neither text nor messages.
    """
    for name in ("problem", "messages", "prompt"):
        if name in schema.names:
            type_ = schema.field(name).type
            turn = type_.value_type if pa.types.is_list(type_) else pa.null()
            are_messages = pa.types.is_struct(turn) and min(map(turn.get_field_index, ("role", "content"))) >= 0
            if type_ == pa.string() or are_messages:
                return name
            raise UsageError(f"--input {source}: column '{name}' is {type_}; it must be text, or messages")
    raise UsageError(
        f"--input {source} has no column 'problem', 'messages' or 'prompt'; its columns are {', '.join(schema.names)}"
    )


def problem_text(value: str | list[dict[str, str]] | None) -> str | None:
    """The problem in such a column: the text itself, or the first user turn's."""
    if isinstance(value, list):
        return next((message["content"] for message in value if message and message["role"] == "user"), None)
    return value


@dataclass
class OverlapTally:
    """Rows checked, those without any text to compare, and by row number its problem and the questions it hits."""

    num_rows: int = 0
    without_problem: int = 0
    overlaps: dict[int, tuple[str, dict[Question, str]]] = field(default_factory=dict)


def without_overlaps(
    batches: Iterator[pa.RecordBatch], column: str, index: OverlapIndex, tally: OverlapTally
) -> Iterator[pa.Table]:
    """Yields the rows that overlap with no question, with all columns unchanged, and counts into `tally`."""
    for batch in batches:
        problems = list(map(problem_text, batch[column].to_pylist()))
        found = find_overlaps(problems, index)
        tally.without_problem += sum(not (problem or "").strip() for problem in problems)
        for number, (problem, questions) in enumerate(zip(problems, found, strict=True), tally.num_rows):
            if questions:
                tally.overlaps[number] = (problem, questions)
        tally.num_rows += len(batch)
        kept = [not questions for questions in found]
        yield pa.Table.from_batches([batch]).filter(pa.array(kept, pa.bool_()))


def make_report(tally: OverlapTally, index: OverlapIndex) -> dict[str, Any]:
    """The content of `report.json`: counts per benchmark, and every overlap with the first shared words."""
    benchmarks, overlaps = {}, []
    for name in dict.fromkeys(question.benchmark for question in index.questions):
        questions = {question for question in index.questions if question.benchmark == name}
        hits = [questions & found.keys() for _, found in tally.overlaps.values()]
        benchmarks[name] = {
            "questions": sum(question.benchmark == name for question in index.questions),
            "short_questions": sum(index.is_short(q) for q in index.questions if q.benchmark == name),
            "questions_hit": len(set().union(*hits)),
            "overlapping_rows": sum(map(bool, hits)),
        }
    for row, (problem, found) in tally.overlaps.items():
        for question, shared in found.items():
            place = {"row": row, "benchmark": question.benchmark, "id": question.id}
            overlaps.append(place | {"shared": shared, "problem": problem, "question": question.text})
    return {
        "ngram_words": index.num_words,
        "rows": tally.num_rows,
        "rows_without_problem": tally.without_problem,
        "overlapping_rows": len(tally.overlaps),
        "benchmarks": benchmarks,
        "overlaps": overlaps,
    }


def report_table(report: dict[str, Any]) -> str:
    """The counts of a report as a Markdown table, one row per benchmark."""
    keys = ("questions", "short_questions", "questions_hit", "overlapping_rows")
    counts = {name: [counts[key] for key in keys] for name, counts in report["benchmarks"].items()}
    # A row that overlaps with two benchmarks counts once.
    counts["any"] = [*map(sum, list(zip(*counts.values(), strict=True))[:-1]), report["overlapping_rows"]]
    under = f"under {report['ngram_words']} words"
    header = ["benchmark", "questions", under, "questions hit", "rows hit", "% of rows"]
    lines = [[name, *numbers, f"{100 * numbers[-1] / max(1, report['rows']):.2f}"] for name, numbers in counts.items()]
    return grid(header, lines)


def examples(report: dict[str, Any], number: int) -> str:
    """The first overlaps with each benchmark: the shared words, and both texts cut to a line each."""
    return "\n".join(
        f"row {overlap['row']} shares with {overlap['id']} of {name}: {overlap['shared']}\n"
        f"  row:      {_one_line(overlap['problem'], overlap['shared'])}\n"
        f"  question: {_one_line(overlap['question'], overlap['shared'])}"
        for name in report["benchmarks"]
        for overlap in [found for found in report["overlaps"] if found["benchmark"] == name][:number]
    )


def _one_line(text: str, shared: str, width: int = 100) -> str:
    """The part of a text around the shared words, with its white space folded."""
    words = " ".join(text.split())
    start = max(0, words.lower().find(shared) - 20)
    part = words[start : start + width]
    return ("... " if start else "") + part + (" ..." if start + width < len(words) else "")
