"""Which problems share text with the benchmarks: overlap of word n-grams, as the original counts it.

Text is compared in lower case and with its white space folded (`text.lower().split()`), nothing else: punctuation and
LaTeX are parts of their words. Two texts overlap where they share 8 consecutive words. This is the normalisation and
the rule of https://github.com/huggingface/open-r1/blob/main/scripts/decontaminate.py, which the paper's repository
ships. A question of fewer than 8 words has no such n-gram, so that rule never finds it (32 of MATH-500's 500); here a
problem with the same words, no more and no fewer, overlaps with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.reading.table_files import Rows
from redi.evaluation.benchmarks import load_benchmarks
from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl
from redi.runs.markdown import grid

NGRAM_WORDS = 8


@dataclass(frozen=True)
class Question:
    """A question of a benchmark."""

    benchmark: str
    id: str | int
    text: str


class OverlapIndex:
    """The n-grams of the questions of any number of benchmarks.

    Nearly all problems are decided without looking at their n-grams. Cut a problem's words into blocks of half an
    n-gram whose starts are so far apart that every n-gram holds exactly one of them; where no block occurs anywhere in
    a question, no n-gram does. That reads a fifth as many tuples, in C.

    Args:
        questions: of all benchmarks.
        num_words: in an n-gram.
    """

    def __init__(self, questions: Iterable[Question], num_words: int = NGRAM_WORDS):
        if num_words < 1:
            raise ValueError(f"num_words={num_words} must be at least 1")
        self.num_words = num_words
        self.questions = tuple(questions)
        self._block_words = max(1, num_words // 2)
        self._stride = num_words - self._block_words + 1
        self._blocks: set[tuple[str, ...]] = set()
        self._numbers_of: dict[tuple[str, ...], list[int]] = {}  # n-gram -> positions in `questions`
        for number, question in enumerate(self.questions):
            words = question.text.lower().split()
            self._blocks.update(_ngrams(words, self._block_words))
            # A question shorter than an n-gram is found under all of its words; no n-gram has that length.
            for ngram in set(_ngrams(words, num_words)) if len(words) >= num_words else [tuple(words)]:
                self._numbers_of.setdefault(ngram, []).append(number)

    def is_short(self, question: Question) -> bool:
        """Whether the question has no n-gram, so that only a problem of the same words overlaps with it."""
        return len(question.text.split()) < self.num_words

    def find(self, problem: str) -> dict[Question, str]:
        """The questions that a problem overlaps with, each with the first words they share, in lower case."""
        words = problem.lower().split()
        if len(words) < self.num_words:
            ngrams = [tuple(words)]
        else:
            blocks = zip(*(words[k :: self._stride] for k in range(self._block_words)), strict=False)
            ngrams = [] if self._blocks.isdisjoint(blocks) else _ngrams(words, self.num_words)
        first: dict[int, tuple[str, ...]] = {}
        for ngram in ngrams:
            for number in self._numbers_of.get(ngram, ()):
                first.setdefault(number, ngram)
        return {self.questions[number]: " ".join(ngram) for number, ngram in first.items()}


def _ngrams(words: list[str], num_words: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[k:] for k in range(num_words)), strict=False)


def find_overlaps(problems: Iterable[str | None], index: OverlapIndex) -> list[dict[Question, str]]:
    """What `OverlapIndex.find` says of each problem, in order; a missing problem overlaps with nothing."""
    return [index.find(problem) if problem else {} for problem in problems]


def load_questions(names: Sequence[str], folder: Path, jsonl: Sequence[Path]) -> dict[Path, list[Question]]:
    """The questions of benchmarks, by file.

    Args:
        names: known names, looked up in `folder`, or files of `id, problem, answer`.
        folder: of the known names.
        jsonl: files of which only `problem` is read, and `id` where they have it.

    Raises:
        UsageError: a benchmark is missing or malformed, or two have the same name.
    """
    benchmarks = load_benchmarks(list(names), folder)
    found = {b.path: [Question(b.name, row.id, row.problem) for row in b.problems] for b in benchmarks}
    for path in jsonl:
        if path.stem in {known.stem for known in found}:
            raise UsageError(f"--jsonl {path}: there is another benchmark named '{path.stem}'; rename the file")
        found[path] = [_question(path, number, row) for number, row in enumerate(iter_jsonl(path, ("problem",)), 1)]
        if not found[path]:
            raise UsageError(f"--jsonl {path} has no rows")
    return found


def _question(path: Path, number: int, row: dict[str, Any]) -> Question:
    text = row["problem"]
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"--jsonl {path}, row {number}: 'problem' is no text, or empty")
    return Question(path.stem, row.get("id", f"row {number}"), text)


def problem_column(schema: pa.Schema, source: str) -> str:
    """Where the problem is: `problem`, or in the user turn of `messages` (positives), or `prompt` (pairs).

    Raises:
        UsageError: there is none of these columns, or it holds neither text nor messages.
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
class Tally:
    """What has been found so far.

    Attributes:
        num_rows: rows looked at.
        without_problem: those without any text to compare.
        overlaps: by row number, its problem and the questions that it overlaps with.
    """

    num_rows: int = 0
    without_problem: int = 0
    overlaps: dict[int, tuple[str, dict[Question, str]]] = field(default_factory=dict)

    def add(self, problems: list[str | None], index: OverlapIndex) -> list[bool]:
        """Looks at the next rows, and returns for each whether it overlaps with no question."""
        found = find_overlaps(problems, index)
        self.without_problem += sum(not (problem or "").strip() for problem in problems)
        for number, (problem, questions) in enumerate(zip(problems, found, strict=True), self.num_rows):
            if questions:
                self.overlaps[number] = (problem, questions)
        self.num_rows += len(problems)
        return [not questions for questions in found]


def without_overlaps(rows: Rows, column: str, index: OverlapIndex, tally: Tally) -> Iterator[pa.Table]:
    """Yields the rows that overlap with no question, all their columns as they were, and counts into `tally`."""
    for batch in rows.batches():
        kept = tally.add(problem_texts(batch[column]), index)
        yield pa.Table.from_batches([batch]).filter(pa.array(kept, pa.bool_()))


def report(tally: Tally, index: OverlapIndex) -> dict[str, Any]:
    """What `report.json` holds: counts per benchmark, and every overlap with the first words that are shared."""
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
    """The counts of a report as a Markdown table, one row a benchmark."""
    keys = ("questions", "short_questions", "questions_hit", "overlapping_rows")
    counts = {name: [counts[key] for key in keys] for name, counts in report["benchmarks"].items()}
    # A row that overlaps with two benchmarks counts once.
    counts["any"] = [*map(sum, list(zip(*counts.values(), strict=True))[:-1]), report["overlapping_rows"]]
    under = f"under {report['ngram_words']} words"
    header = ["benchmark", "questions", under, "questions hit", "rows hit", "% of rows"]
    lines = [
        [name, *(f"{number:,}" for number in numbers), f"{100 * numbers[-1] / max(1, report['rows']):.2f}"]
        for name, numbers in counts.items()
    ]
    return grid(header, lines)


def examples(report: dict[str, Any], number: int) -> str:
    """The first overlaps with each benchmark: the words shared, and both texts, cut to a line each."""
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
    """The part of a text around the words shared, its white space folded."""
    words = " ".join(text.split())
    start = max(0, words.lower().find(shared) - 20)
    part = words[start : start + width]
    return ("... " if start else "") + part + (" ..." if start + width < len(words) else "")
