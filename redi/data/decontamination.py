"""Reports which rows share text with the benchmarks, and drops them on request."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.dataset_folder import count_table, is_complete, refuse_output_over_input, write_card_and_manifest
from redi.data.overlap_index import OverlapIndex, Question, find_overlaps
from redi.data.reading.local_files import Rows, open_rows
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import load_benchmarks
from redi.runs.errors import UsageError
from redi.runs.files import new_folder, write_text
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import read_manifest, write_manifest
from redi.runs.markdown import grid

REPORT = "report.json"
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
        source: parquet or JSON lines with `problem`, or positives or pairs.
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
    refuse_output_over_input(output, inputs)
    parts = []
    if (output / REPORT).is_file() and not overwrite and is_complete(output, config, inputs):
        parts.append(f"{output}: already done\n")
    else:
        _write(output, OverlapIndex(chain(*questions.values()), ngram_words), config, inputs, overwrite)
    return "".join([*parts, _describe(output, drop, show)])


def _write(output: Path, index: OverlapIndex, config: dict[str, Any], inputs: dict[str, str], overwrite: bool) -> None:
    started = time.time()
    rows = open_rows(inputs["corpus"])
    column = problem_column(rows.schema, inputs["corpus"])
    tally, files = OverlapTally(), {}
    with new_folder(output, overwrite) as folder:
        if config["drop"]:
            files = write_shards(without_overlaps(rows, column, index, tally), folder)
            if not files:
                raise UsageError(f"--input {rows.source}: no rows are left of {tally.num_rows}; nothing is written")
        else:
            for batch in rows.batches([column]):
                tally.add(problem_texts(batch[column]), index)
        write_text(folder / REPORT, json.dumps(make_report(tally, index), indent=1) + "\n")
        counts = {"input_rows": tally.num_rows, "overlapping_rows": len(tally.overlaps), "files": files}
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        if config["drop"]:
            counts |= {"dropped": {OVERLAPS: len(tally.overlaps)}, "rows": sum(files.values())}
            write_card_and_manifest(folder, output, SUMMARY, **about)
        else:
            write_manifest(folder, **about)


def _describe(output: Path, drop: bool, show: int) -> str:
    found = json.loads((output / REPORT).read_text(encoding="utf-8"))
    parts = [report_table(found)]
    if found["rows_without_problem"]:
        parts.append(f"Rows without a problem, with nothing to compare: {found['rows_without_problem']:,}")
    if show and found["overlaps"]:
        parts.append(examples(found, show))
    if drop:
        parts.append(
            count_table(read_manifest(output, "counts.input_rows", "counts.dropped", "counts.rows")["counts"])
        )
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
        found[path] = [_question(path, number, row) for number, row in enumerate(iter_jsonl(path, ("problem",)), 1)]
        if not found[path]:
            raise UsageError(f"--jsonl {path} has no rows")
    return found


def _question(path: Path, number: int, row: dict[str, Any]) -> Question:
    text = row["problem"]
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"--jsonl {path}, row {number}: 'problem' is empty or not text")
    return Question(path.stem, row.get("id", f"row {number}"), text)


def problem_column(schema: pa.Schema, source: str) -> str:
    """The column with the problem: `problem`, or the user turn of `messages` (positives), or `prompt` (pairs).

    Raises:
        UsageError: none of these columns exists, or it holds neither text nor messages.
    """
    for name in ("problem", "messages", "prompt"):
        if name in schema.names:
            type_ = schema.field(name).type
            if _is_text(type_) or _are_messages(type_):
                return name
            raise UsageError(f"--input {source}: column '{name}' is {type_}; it must be text, or messages")
    raise UsageError(
        f"--input {source} has no column 'problem', 'messages' or 'prompt'; its columns are {', '.join(schema.names)}"
    )


def _is_text(type_: pa.DataType) -> bool:
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    return type_ in (pa.string(), pa.large_string(), pa.string_view())


def _are_messages(type_: pa.DataType) -> bool:
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)) or not pa.types.is_struct(type_.value_type):
        return False
    names = [type_.value_type.field(i).name for i in range(type_.value_type.num_fields)]
    return {"role", "content"} <= set(names)


def problem_texts(column: pa.Array) -> list[str | None]:
    """The problem of each row of such a column: the text itself, or the first user turn's."""
    return [_first_user_turn(value) if isinstance(value, list) else value for value in column.to_pylist()]


def _first_user_turn(messages: list[dict[str, str]]) -> str | None:
    return next((message["content"] for message in messages if message["role"] == "user"), None)


@dataclass
class OverlapTally:
    """The overlaps found so far.

    Attributes:
        num_rows: rows checked.
        without_problem: rows without any text to compare.
        overlaps: row number -> its problem and the questions that it overlaps with.
    """

    num_rows: int = 0
    without_problem: int = 0
    overlaps: dict[int, tuple[str, dict[Question, str]]] = field(default_factory=dict)

    def add(self, problems: list[str | None], index: OverlapIndex) -> list[bool]:
        """Checks the next rows, and returns for each whether it overlaps with no question."""
        found = find_overlaps(problems, index)
        self.without_problem += sum(not (problem or "").strip() for problem in problems)
        for number, (problem, questions) in enumerate(zip(problems, found, strict=True), self.num_rows):
            if questions:
                self.overlaps[number] = (problem, questions)
        self.num_rows += len(problems)
        return [not questions for questions in found]


def without_overlaps(rows: Rows, column: str, index: OverlapIndex, tally: OverlapTally) -> Iterator[pa.Table]:
    """Yields the rows that overlap with no question, with all columns unchanged, and counts into `tally`."""
    for batch in rows.batches():
        kept = tally.add(problem_texts(batch[column]), index)
        yield pa.Table.from_batches([batch]).filter(pa.array(kept, pa.bool_()))


def make_report(tally: OverlapTally, index: OverlapIndex) -> dict[str, Any]:
    """The content of `report.json`: counts per benchmark, and every overlap with the first shared words."""
    pairs = [(row, question) for row, (_, questions) in tally.overlaps.items() for question in questions]
    benchmarks = {}
    for name in dict.fromkeys(question.benchmark for question in index.questions):
        questions = [question for question in index.questions if question.benchmark == name]
        benchmarks[name] = {
            "questions": len(questions),
            "short_questions": sum(map(index.is_short, questions)),
            "questions_hit": len({question for _, question in pairs if question.benchmark == name}),
            "overlapping_rows": len({row for row, question in pairs if question.benchmark == name}),
        }
    return {
        "ngram_words": index.num_words,
        "rows": tally.num_rows,
        "rows_without_problem": tally.without_problem,
        "overlapping_rows": len(tally.overlaps),
        "benchmarks": benchmarks,
        "overlaps": [
            {
                "row": row,
                "benchmark": question.benchmark,
                "id": question.id,
                "shared": shared,
                "problem": problem,
                "question": question.text,
            }
            for row, (problem, questions) in tally.overlaps.items()
            for question, shared in questions.items()
        ],
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
    parts = []
    for name in report["benchmarks"]:
        found = [overlap for overlap in report["overlaps"] if overlap["benchmark"] == name]
        for overlap in found[:number]:
            parts.append(
                f"row {overlap['row']} shares with {overlap['id']} of {name}: {overlap['shared']}\n"
                f"  row:      {_one_line(overlap['problem'], overlap['shared'])}\n"
                f"  question: {_one_line(overlap['question'], overlap['shared'])}"
            )
    return "\n".join(parts)


def _one_line(text: str, shared: str, width: int = 100) -> str:
    """The part of a text around the shared words, with its white space folded."""
    words = " ".join(text.split())
    start = max(0, words.lower().find(shared) - 20)
    part = words[start : start + width]
    return ("... " if start else "") + part + (" ..." if start + width < len(words) else "")
