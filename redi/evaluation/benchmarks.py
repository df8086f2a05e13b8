"""Benchmarks: JSONL files of `id, problem, answer`, by path or by a known name; some can be fetched from the Hub.

A new benchmark is such a file. Multiple choice, as in GPQA, has the choices in `problem` and the letter as `answer`.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.evaluation.files import KINDS, TEXTS, check, texts_of
from redi.runs.errors import UsageError, nearest, usage_errors
from redi.runs.files import write_text
from redi.runs.jsonl import iter_lines, line

DEFAULT_FOLDER = Path("data/benchmarks")
# A raw answer of GSM8K: a worked solution, and on its last line "#### 2".
_GSM8K = re.compile(r".*####([^\n]*)\s*", re.DOTALL)


@dataclass(frozen=True)
class KnownBenchmark:
    """A benchmark that is known by its name.

    Attributes:
        num_rows: its problems; a file of another number is refused.
        dataset: its Hub id, for `evaluate.py download`; None if it cannot be downloaded.
        split, problem, answer, id: the dataset's split, and its columns; without `id` rows are numbered.
        in_paper: whether it is one of the five of the paper, whose scores are averaged.
        second_golds_of: the benchmark whose problems these are, with other reference answers.
    """

    num_rows: int
    dataset: str | None = None
    split: str = "test"
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None
    in_paper: bool = False
    second_golds_of: str | None = None


# The five of https://huggingface.co/papers/2505.24850. AMC23 is 83 problems there (AMC 12 of 2022 and 2023): every
# value of its pass@16 column is k/83. Other copies hold only the 40 of 2023. Three of the five are on the Hub as the
# paper used them. The copies of the other two differ, so they have other names: the reference answers of minerva_hub
# are likely those of the sources, and olympiadbench_hub lacks one problem. The files that the paper was graded by come
# with the rllm repository. Its reference answers of Minerva were extracted by a language model, and a tenth of them
# answer another question; those of minerva_sourcebox are the boxed answers of the sources.
BENCHMARKS = {
    "math500": KnownBenchmark(500, "HuggingFaceH4/MATH-500", id="unique_id", in_paper=True),
    "aime24": KnownBenchmark(30, "HuggingFaceH4/aime_2024", "train", id="id", in_paper=True),
    "amc23": KnownBenchmark(83, "AI-MO/aimo-validation-amc", "train", id="id", in_paper=True),
    "minerva": KnownBenchmark(272, in_paper=True),
    "olympiadbench": KnownBenchmark(675, in_paper=True),
    "minerva_hub": KnownBenchmark(272, "math-ai/minervamath", problem="question"),
    "olympiadbench_hub": KnownBenchmark(674, "math-ai/olympiadbench", problem="question", answer="final_answer"),
    "minerva_sourcebox": KnownBenchmark(272, second_golds_of="minerva"),
}
KNOWN = {name: known.num_rows for name, known in BENCHMARKS.items() if known.in_paper}
SECOND_GOLDS = {name: known.second_golds_of for name, known in BENCHMARKS.items() if known.second_golds_of}


@dataclass(frozen=True)
class Problem:
    """One problem; `answer` is the reference answer, or a list of alternatives, any of which counts."""

    id: str | int
    problem: str
    answer: str | list[str] | None
    prompt: str = ""  # that a model was given, where it is known


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name (its file's stem), file and problems."""

    name: str
    path: Path
    problems: tuple[Problem, ...]


def load_benchmark(name_or_path: str, folder: Path = DEFAULT_FOLDER) -> Benchmark:
    """Loads a benchmark from a JSONL file, or by a known name from `folder`.

    Refuses an unknown name, malformed rows, an id that occurs twice, and other numbers of rows than the paper's.
    """
    path, known = Path(name_or_path), BENCHMARKS.get(name_or_path)
    if path.is_file():
        known = None
    elif known:
        path = folder / f"{name_or_path}.jsonl"
        if not path.is_file():
            download_it = f", or run `evaluate.py download --benchmark {name_or_path}`" if known.dataset else ""
            raise UsageError(
                f"--benchmark {name_or_path}: {path} is missing; put a JSONL file of {known.num_rows} rows with id, "
                f"problem and answer there, name its folder with --benchmark-folder{download_it}"
            )
    if path.suffix != ".jsonl":
        hint = f"({', '.join(BENCHMARKS)}){nearest(name_or_path, list(BENCHMARKS))}"
        raise UsageError(f"--benchmark {name_or_path} is neither a .jsonl file nor a known name {hint}")
    problems = _read_problems(path)
    if known and len(problems) != known.num_rows:
        raise UsageError(f"{path} has {len(problems)} rows; {name_or_path} has {known.num_rows}")
    return Benchmark(path.stem, path, tuple(problems))


def load_benchmarks(names: list[str], folder: Path = DEFAULT_FOLDER) -> list[Benchmark]:
    """Loads several benchmarks, as `load_benchmark`; refuses two of the same name."""
    loaded: dict[str, tuple[str, Benchmark]] = {}
    for given in names:
        benchmark = load_benchmark(given, folder)
        first, _ = loaded.setdefault(benchmark.name, (given, benchmark))
        if loaded[benchmark.name][1] is not benchmark:
            raise UsageError(f"--benchmark {first} and {given} are both named '{benchmark.name}'")
    return [benchmark for _, benchmark in loaded.values()]


def _read_problems(path: Path) -> list[Problem]:
    problems: dict[str, Problem] = {}
    num_solutions = 0
    for number, _, row in iter_lines(path, ("id", "problem", "answer")):
        where = f"{path}, line {number}"
        answer = reference_answer(row, where)
        num_solutions += answer != row["answer"]
        for key in ("id", "problem"):
            _check_text(str(row[key]), key, where)
        if str(row["id"]) in problems:
            raise UsageError(f"{where}: id '{row['id']}' occurs twice")
        problems[str(row["id"])] = Problem(row["id"], row["problem"], answer)
    if not problems:
        raise UsageError(f"{path} has no rows")
    if num_solutions:
        what = "are solutions that end in '#### ANSWER', as in GSM8K; what follows #### is the reference answer"
        print(f"note: {path}: {num_solutions} answers {what}", file=sys.stderr)
    return list(problems.values())


def read_asked(path: Path, golds: bool = False) -> dict[str, dict[str, Problem]]:
    """The problems in a folder's `benchmark.jsonl` by benchmark and id; empty if there is no such file.

    Refuses malformed rows and a problem that occurs twice. Reference answers are looked at only if `golds`.
    """
    asked: dict[str, dict[str, Problem]] = {}
    for number, _, row in iter_lines(path, ("benchmark", "id", *["answer"] * golds)) if path.is_file() else ():
        where = f"{path}, line {number}"
        check(row, where, {key: KINDS[key] for key in ("benchmark", "id", "problem")})
        answer = reference_answer(row, where) if golds else row.get("answer")
        problems, name = asked.setdefault(row["benchmark"], {}), str(row["id"])
        if name in problems:
            raise UsageError(f"{where}: id '{name}' of {row['benchmark']} occurs twice")
        problems[name] = Problem(row["id"], row.get("problem", ""), answer)
    return asked


def reference_answer(row: dict[str, Any], where: str) -> str | list[str]:
    """The reference answers of a benchmark's row, which is checked; of GSM8K's solutions, what follows `####`."""
    check(row, where, KINDS | {"answer": TEXTS})
    golds = []
    for gold in texts_of(row["answer"]):
        solution = _GSM8K.fullmatch(gold)
        golds.append(solution[1].strip() if solution else gold)
        _check_text(golds[-1], "answer", where)
    return golds if isinstance(row["answer"], list) else golds[0]


def _check_text(text: str, key: str, where: str) -> None:
    if not text.strip():
        raise UsageError(f"{where}: '{key}' is empty")
    half = "holds half a surrogate pair at character"
    with usage_errors(lambda error: f"{where}: '{key}' {half} {error.start + 1}", UnicodeEncodeError):
        text.encode("utf-8")


def downloadable() -> list[str]:
    return [name for name, known in BENCHMARKS.items() if known.dataset]


def download(names: list[str], folder: Path) -> None:
    """Writes `NAME.jsonl` for each name, unless it exists; refuses unknown names, and other rows or columns."""
    for name in names:
        if name not in downloadable():
            hint = f"(known names: {', '.join(downloadable())}){nearest(name, downloadable())}"
            raise UsageError(f"--benchmark {name} cannot be downloaded {hint}")
    for name in names:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            print(f"{path} exists")
            continue
        rows = convert(name, BENCHMARKS[name], _load(name, BENCHMARKS[name]))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(map(line, rows)))
        print(f"{len(load_benchmark(str(path)).problems)} problems: {path}")


def _load(name: str, source: KnownBenchmark) -> list[dict[str, Any]]:
    from datasets import load_dataset  # takes seconds to import
    from datasets.exceptions import DatasetNotFoundError

    def message(error: Exception) -> str:
        return f"--benchmark {name}: {source.dataset} cannot be loaded from the Hub: {str(error).splitlines()[0]}"

    with usage_errors(message, DatasetNotFoundError, OSError, ValueError):
        return load_dataset(source.dataset, split=source.split).to_list()


def convert(name: str, source: KnownBenchmark, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of a Hub dataset as rows of a benchmark; `142.0` becomes "142", and a list becomes one text.

    Refuses another number of rows than the known one, and rows without a column.
    """
    if len(rows) != source.num_rows:
        raise UsageError(f"--benchmark {name}: {source.dataset} has {len(rows)} rows, not {source.num_rows}")
    if missing := {source.problem, source.answer, source.id or source.problem} - rows[0].keys():
        columns = f"no column '{min(missing)}'; it has {', '.join(rows[0])}"
        raise UsageError(f"--benchmark {name}: {source.dataset} has {columns}")
    converted = []
    for number, row in enumerate(rows):
        name_in_row = row[source.id] if source.id else number
        texts = {"problem": row[source.problem], "answer": _text(row[source.answer])}
        converted.append({"id": f"{name}/{name_in_row}"} | texts)
    return converted


def _text(answer: Any) -> str:
    if isinstance(answer, list):
        return ", ".join(map(_text, answer))
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()
