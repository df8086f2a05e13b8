"""Benchmarks: JSONL files of `id, problem, answer`, by path or by a known name.

A new benchmark is such a file. Multiple choice, as in GPQA, has the choices in `problem` and the letter as `answer`.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.evaluation.files import KINDS, TEXTS, check, texts_of
from redi.runs.errors import UsageError, nearest
from redi.runs.jsonl import iter_lines

# Rows of the five benchmarks of https://huggingface.co/papers/2505.24850. AMC23 is 83 problems there (AMC 12 of 2022
# and 2023): every value of its pass@16 column is k/83. Other copies hold only the 40 of 2023.
KNOWN = {"math500": 500, "aime24": 30, "amc23": 83, "minerva": 272, "olympiadbench": 675}
# The same problems with other reference answers. Those of Minerva that the paper was graded by were extracted by a
# language model, and a tenth of them answer another question; these are the boxed answers of the sources.
SECOND_GOLDS = {"minerva_sourcebox": "minerva"}
_NUM_ROWS = KNOWN | {name: KNOWN[first] for name, first in SECOND_GOLDS.items()}
DEFAULT_FOLDER = Path("data/benchmarks")
# A raw answer of GSM8K: a worked solution, and on its last line "#### 2".
_GSM8K = re.compile(r".*####([^\n]*)\s*", re.DOTALL)


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
        print(
            f"note: {path}: {num_solutions} answers are solutions that end in '#### ANSWER', as in GSM8K; what "
            "follows #### is the reference answer",
            file=sys.stderr,
        )
    return list(problems.values())


def read_asked(path: Path, golds: bool = False) -> dict[str, dict[str, Problem]]:
    """The problems in a folder's `benchmark.jsonl` by benchmark and id; empty if there is no such file.

    Args:
        path: of the file.
        golds: each row must have reference answers; otherwise they are not looked at.

    Raises:
        UsageError: a malformed row, or a problem occurs twice.
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
    """The reference answers of a benchmark's row; of GSM8K's worked solutions, what follows `####`.

    Raises:
        UsageError: a value of the row is of the wrong kind; the message begins with `where`.
    """
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
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: '{key}' holds half a surrogate pair at character {error.start + 1}") from None
