"""Reports which rows share text with the benchmarks, by word n-grams as the original counts it, and can drop them.

Texts are compared in lower case with folded white space (`text.lower().split()`) and otherwise unchanged, so
punctuation and LaTeX are parts of their words. Two texts overlap if they share 8 consecutive words. Normalisation and
rule are those of decontaminate.py in https://github.com/huggingface/open-r1, which the paper's repository ships. A
question of fewer than 8 words has no such n-gram, so that rule never finds it (32 of MATH-500's 500). Here, a problem
of exactly the same words overlaps with it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from redi.data.dataset_folder import REPORT, count_table, is_done, new_dataset
from redi.data.reading.rows import open_rows
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import load_benchmarks
from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import read_manifest
from redi.runs.markdown import grid

NGRAM_WORDS = 8
SUMMARY = "The rows of a dataset whose problem shares no n-gram with a question of the benchmarks, unchanged."
OVERLAPS = "overlaps a benchmark"  # the reason for a drop
COUNTED = ("questions", "short_questions", "questions_hit", "overlapping_rows")  # of each benchmark


class Question(NamedTuple):
    """A question of a benchmark."""

    benchmark: str
    id: str | int
    text: str


class OverlapIndex:
    """The n-grams, of `num_words` words, of the questions of any number of benchmarks.

    A problem is cut into blocks of half an n-gram, so far apart that every n-gram holds exactly one block. If no block
    occurs in any question, no n-gram does: nearly all problems are decided by a fifth as many tuples, in C.
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
            # A question shorter than an n-gram is stored under all of its words; no n-gram has that length.
            for ngram in set(_ngrams(words, num_words)) if len(words) >= num_words else [tuple(words)]:
                self._numbers_of.setdefault(ngram, []).append(number)

    def is_short(self, question: Question) -> bool:
        """Whether the question has no n-gram, so only a problem of the same words overlaps with it."""
        return len(question.text.split()) < self.num_words

    def find(self, problem: str | None) -> dict[Question, str]:
        """The questions that a problem overlaps with, each with the first words they share, in lower case."""
        if not problem:
            return {}
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

    The source has `problem`, or holds positives or pairs. `benchmark` are known names, or files with `id, problem,
    answer`; of `jsonl` only `problem` is read. Returns the report as text, with `show` overlaps per benchmark.
    """
    if ngram_words == 0:
        raise UsageError("--ngram-words 0: an overlap has at least 1 word; the original's has 8")
    questions = _questions(benchmark, benchmark_folder, jsonl)
    inputs = {"corpus": source} | {path.stem: str(path) for path in questions}
    config = {"ngram_words": ngram_words, "drop": drop, "benchmarks": [path.stem for path in questions]}
    if is_done(output, config, inputs, overwrite):
        return f"{output}: already done\n{_describe(output, drop, show)}"
    with new_dataset(output, config, inputs, overwrite) as new:
        rows, index = open_rows(source), OverlapIndex(chain(*questions.values()), ngram_words)
        column = _problem_column(rows.schema, source)
        report = {"ngram_words": ngram_words} | dict.fromkeys(("rows", "rows_without_problem", "overlapping_rows"), 0)
        report |= {"benchmarks": {}, "overlaps": []}
        kept = _without_overlaps(rows.batches(None if drop else [column]), column, index, report)
        files = write_shards(kept if drop else (table.slice(0, 0) for table in kept), new.folder)
        report["benchmarks"] = _hits(index, report["overlaps"])
        counts = {"input_rows": report["rows"], "overlapping_rows": report["overlapping_rows"], "files": files}
        if drop:
            if not files:
                raise UsageError(f"--input {source}: no rows are left of {report['rows']}; nothing is written")
            counts |= {"dropped": {OVERLAPS: report["overlapping_rows"]}, "rows": sum(files.values())}
        new.finish(counts, SUMMARY if drop else None, report=report)
    return _describe(output, drop, show)


def _questions(names: Sequence[str], folder: Path, jsonl: Sequence[Path]) -> dict[Path, list[Question]]:
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


def _problem_column(schema: pa.Schema, source: str) -> str:
    """The column with the problem: `problem`, or the user turn of `messages` (positives), or `prompt` (pairs)."""
    for name in ("problem", "messages", "prompt"):
        if name in schema.names:
            type_ = schema.field(name).type
            turn = type_.value_type if pa.types.is_list(type_) else pa.null()
            are_messages = pa.types.is_struct(turn) and min(map(turn.get_field_index, ("role", "content"))) >= 0
            if type_ == pa.string() or are_messages:
                return name
            raise UsageError(f"--input {source}: column '{name}' is {type_}; it must be text, or messages")
    found = ", ".join(schema.names)
    raise UsageError(f"--input {source} has no column 'problem', 'messages' or 'prompt'; its columns are {found}")


def _text(problem: str | list[dict[str, str]] | None) -> str | None:
    """The problem in such a column: the text itself, or the first user turn's."""
    if isinstance(problem, list):
        return next((message["content"] for message in problem if message and message["role"] == "user"), None)
    return problem


def _without_overlaps(
    batches: Iterable[pa.RecordBatch], column: str, index: OverlapIndex, report: dict[str, Any]
) -> Iterator[pa.Table]:
    """Yields the rows without overlaps, all columns unchanged, and counts into `report`."""
    for batch in batches:
        problems = list(map(_text, batch[column].to_pylist()))
        found = list(map(index.find, problems))
        for row, (problem, questions) in enumerate(zip(problems, found, strict=True), report["rows"]):
            report["overlaps"] += [
                {"row": row, "benchmark": question.benchmark, "id": question.id}
                | {"shared": shared, "problem": problem, "question": question.text}
                for question, shared in questions.items()
            ]
        report["rows"] += len(batch)
        report["rows_without_problem"] += sum(not (problem or "").strip() for problem in problems)
        report["overlapping_rows"] += sum(map(bool, found))
        yield pa.Table.from_batches([batch]).filter(pa.array([not questions for questions in found], pa.bool_()))


def _hits(index: OverlapIndex, overlaps: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The counts of each benchmark."""
    found = {}
    for name in dict.fromkeys(question.benchmark for question in index.questions):
        questions = [question for question in index.questions if question.benchmark == name]
        hits = [overlap for overlap in overlaps if overlap["benchmark"] == name]
        num_hit = len({(hit["id"], hit["question"]) for hit in hits})
        values = len(questions), sum(map(index.is_short, questions)), num_hit, len({hit["row"] for hit in hits})
        found[name] = dict(zip(COUNTED, values, strict=True))
    return found


def _describe(output: Path, drop: bool, show: int) -> str:
    report = json.loads((output / REPORT).read_text(encoding="utf-8"))
    counts = {name: [found[key] for key in COUNTED] for name, found in report["benchmarks"].items()}
    # A row that overlaps with two benchmarks counts once.
    counts["any"] = [*map(sum, list(zip(*counts.values(), strict=True))[:-1]), report["overlapping_rows"]]
    under = f"under {report['ngram_words']} words"
    header = ["benchmark", "questions", under, "questions hit", "rows hit", "% of rows"]
    lines = [[name, *numbers, f"{100 * numbers[-1] / max(1, report['rows']):.2f}"] for name, numbers in counts.items()]
    parts = [grid(header, lines)]
    if report["rows_without_problem"]:
        parts.append(f"Rows without a problem, with nothing to compare: {report['rows_without_problem']:,}")
    for name in report["benchmarks"]:
        of_benchmark = [overlap for overlap in report["overlaps"] if overlap["benchmark"] == name]
        for overlap in of_benchmark[:show]:
            said = f"row {overlap['row']} shares with {overlap['id']} of {name}: {overlap['shared']}"
            row, question = (_around(overlap[text], overlap["shared"]) for text in ("problem", "question"))
            parts.append(f"{said}\n  row:      {row}\n  question: {question}")
    if drop:
        parts.append(count_table(read_manifest(output, "counts.rows")["counts"]))
    return "\n\n".join([*parts, f"Every overlap: {output / REPORT}"])


def _around(text: str, shared: str, width: int = 100) -> str:
    """The part of a text around the shared words, on one line."""
    words = " ".join(text.split())
    start = max(0, words.lower().find(shared) - 20)
    part = words[start : start + width]
    return ("... " if start else "") + part + (" ..." if start + width < len(words) else "")
