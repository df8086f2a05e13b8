"""Benchmarks: JSONL files of `id, problem, answer`, by path or by a known name.

A new benchmark is such a file. Multiple choice, as in GPQA, has the choices in `problem` and the letter as `answer`.
"""

from dataclasses import dataclass
from pathlib import Path

from redi.runs.errors import UsageError, nearest
from redi.runs.jsonl import iter_jsonl

# Rows of the five benchmarks of https://huggingface.co/papers/2505.24850. AMC23 is 83 problems there (AMC 12 of 2022
# and 2023): every value of its pass@16 column is k/83. Other copies hold only the 40 of 2023.
KNOWN = {"math500": 500, "aime24": 30, "amc23": 83, "minerva": 272, "olympiadbench": 675}
# The same problems with other reference answers. Those of Minerva that the paper was graded by were extracted by a
# language model, and a tenth of them answer another question; these are the boxed answers of the sources.
SECOND_GOLDS = {"minerva_sourcebox": "minerva"}
_NUM_ROWS = KNOWN | {name: KNOWN[first] for name, first in SECOND_GOLDS.items()}
DEFAULT_FOLDER = Path("data/benchmarks")


@dataclass(frozen=True)
class Problem:
    """One problem; `answer` is the reference answer, or a list of alternatives, any of which counts."""

    id: str | int
    problem: str
    answer: str | list[str]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name (its file's stem), file and problems."""

    name: str
    path: Path
    problems: tuple[Problem, ...]


def load_benchmark(name_or_path: str, folder: Path = DEFAULT_FOLDER) -> Benchmark:
    """Loads a benchmark from a JSONL file, or by a known name from `folder`.

    Raises:
        UsageError: an unknown name, a missing or malformed file, a row without text or answer, a duplicate id, or a
            known name whose file does not have as many rows as the paper's.
    """
    path = Path(name_or_path)
    known = name_or_path in _NUM_ROWS and not path.is_file()
    if known:
        path = folder / f"{name_or_path}.jsonl"
        if not path.is_file():
            raise UsageError(
                f"--benchmark {name_or_path}: {path} is missing; put a JSONL file of {_NUM_ROWS[name_or_path]} rows "
                "with id, problem and answer there, name its folder with --benchmark-folder, or try "
                f"`evaluate.py download` (known names: {', '.join(_NUM_ROWS)})"
            )
    elif path.suffix != ".jsonl":
        raise UsageError(
            f"--benchmark {name_or_path} is neither a .jsonl file nor a known name ({', '.join(_NUM_ROWS)})"
            f"{nearest(name_or_path, list(_NUM_ROWS))}"
        )
    problems = _read_problems(path)
    if known and len(problems) != _NUM_ROWS[name_or_path]:
        raise UsageError(f"{path} has {len(problems)} rows; {name_or_path} has {_NUM_ROWS[name_or_path]}")
    return Benchmark(path.stem, path, tuple(problems))


def load_benchmarks(names: list[str], folder: Path = DEFAULT_FOLDER) -> list[Benchmark]:
    """Loads several benchmarks, whose names must differ.

    Raises:
        UsageError: two have the same name, or as `load_benchmark`.
    """
    benchmarks = [load_benchmark(name, folder) for name in names]
    taken: dict[str, str] = {}
    for given, benchmark in zip(names, benchmarks, strict=True):
        if benchmark.name in taken:
            raise UsageError(f"--benchmark {taken[benchmark.name]} and {given} are both named '{benchmark.name}'")
        taken[benchmark.name] = given
    return benchmarks


def _read_problems(path: Path) -> list[Problem]:
    seen: set[str | int] = set()
    problems = []
    for number, row in enumerate(iter_jsonl(path, ("id", "problem", "answer")), start=1):
        where = f"{path}, row {number}"
        if not isinstance(row["id"], str | int):
            raise UsageError(f"{where}: 'id' must be text or a whole number, not {row['id']!r}")
        golds = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if not golds or not all(isinstance(gold, str) and gold.strip() for gold in golds):
            raise UsageError(f"{where}: 'answer' must be text or a list of texts, not {row['answer']!r}")
        if not isinstance(row["problem"], str) or not row["problem"].strip():
            raise UsageError(f"{where}: 'problem' is empty")
        if row["id"] in seen:
            raise UsageError(f"{where}: id '{row['id']}' occurs twice")
        seen.add(row["id"])
        problems.append(Problem(row["id"], row["problem"], row["answer"]))
    if not problems:
        raise UsageError(f"{path} has no rows")
    return problems
