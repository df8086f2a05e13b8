"""Fetches benchmarks from the Hub into a folder of JSONL files.

Three of the paper's five are on the Hub as the paper used them. The copies of the other two differ, so they have other
names: math-ai/minervamath, whose reference answers are likely those of the sources, and math-ai/olympiadbench, with
674 of the 675 problems. The files that the paper was graded by come with the rllm repository.
"""

from pathlib import Path
from typing import Any, NamedTuple

from redi.evaluation.benchmarks import load_benchmark
from redi.runs.errors import UsageError, nearest, usage_errors
from redi.runs.files import write_text
from redi.runs.jsonl import line


class Source(NamedTuple):
    """Where a benchmark is on the Hub, and the names of its columns."""

    dataset: str
    split: str
    num_rows: int
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None


SOURCES = {
    "math500": Source("HuggingFaceH4/MATH-500", "test", 500, id="unique_id"),
    "aime24": Source("HuggingFaceH4/aime_2024", "train", 30, id="id"),
    "amc23": Source("AI-MO/aimo-validation-amc", "train", 83, id="id"),
    "minerva_hub": Source("math-ai/minervamath", "test", 272, problem="question"),
    "olympiadbench_hub": Source("math-ai/olympiadbench", "test", 674, problem="question", answer="final_answer"),
}


def download(names: list[str], folder: Path) -> None:
    """Writes `NAME.jsonl` with `id, problem, answer` for each name; an existing file is kept.

    Raises:
        UsageError: an unknown name, a dataset that cannot be loaded, or one with other rows or columns than known.
    """
    for name in names:
        if name not in SOURCES:
            hint = f"(known names: {', '.join(SOURCES)}){nearest(name, list(SOURCES))}"
            raise UsageError(f"--benchmark {name} cannot be downloaded {hint}")
    for name in names:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            print(f"{path} exists")
            continue
        rows = convert(name, SOURCES[name], _load(name, SOURCES[name]))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(line(row) for row in rows))
        print(f"{len(load_benchmark(str(path)).problems)} problems: {path}")


def _load(name: str, source: Source) -> list[dict[str, Any]]:
    from datasets import load_dataset  # takes seconds to import
    from datasets.exceptions import DatasetNotFoundError

    def message(error: Exception) -> str:
        return f"--benchmark {name}: {source.dataset} cannot be loaded from the Hub: {str(error).splitlines()[0]}"

    with usage_errors(message, DatasetNotFoundError, OSError, ValueError):
        return load_dataset(source.dataset, split=source.split).to_list()


def convert(name: str, source: Source, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of a Hub dataset as rows of a benchmark; `142.0` becomes "142", and a list becomes one text.

    Raises:
        UsageError: the number of rows is not the known one, or a column is missing.
    """
    if len(rows) != source.num_rows:
        raise UsageError(f"--benchmark {name}: {source.dataset} has {len(rows)} rows, not {source.num_rows}")
    missing = {source.problem, source.answer, source.id or source.problem} - rows[0].keys()
    if missing:
        raise UsageError(
            f"--benchmark {name}: {source.dataset} has no column '{min(missing)}'; it has {', '.join(rows[0])}"
        )
    return [
        {
            "id": f"{name}/{row[source.id] if source.id else number}",
            "problem": row[source.problem],
            "answer": _text(row[source.answer]),
        }
        for number, row in enumerate(rows)
    ]


def _text(answer: Any) -> str:
    if isinstance(answer, list):
        return ", ".join(map(_text, answer))
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()
