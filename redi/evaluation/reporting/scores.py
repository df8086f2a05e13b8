"""Reads graded folders into arrays, and checks that they are complete and comparable."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from redi.evaluation.benchmarks import KNOWN, SECOND_GOLDS, Problem, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, read_samples, read_sampling, texts_of
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint
from redi.runs.manifest import read_manifest

FIELDS = ("finish_reason", "num_tokens", "correct", "status")
COMPARED = ("temperature", "top_p", "max_tokens", "prompt", "force_think")  # n is seen in the samples
PROTOCOL = ("protocol", "n", "limit", *COMPARED, "chat_template", "backend", "dtype", "seed")


@dataclass(frozen=True)
class Scores:
    """One model on one benchmark. Array rows are problems in the order of `ids`, columns are sample indices."""

    ids: tuple[str, ...]
    correct: np.ndarray  # (P, n)
    correct_rllm_style: np.ndarray | None  # (P, n); None if the folder has no second verdicts
    num_tokens: np.ndarray  # (P, n)
    num_waits: np.ndarray | None  # (P, n), how often a response says "Wait"; None without responses
    truncated: np.ndarray  # (P, n)
    status: np.ndarray  # (P, n)
    problems: tuple[Problem, ...] = ()  # (P); text empty, answers None where the folder does not say


@dataclass(frozen=True)
class GradedFolder:
    """One graded folder: a row of the report. `grading` is what the manifest records of it."""

    name: str
    path: Path
    protocol: dict[str, Any]  # the sampling options that are recorded
    scores: dict[str, Scores]
    grading: dict[str, Any] = field(default_factory=dict)


def name_folders(inputs: list[str], option: str = "--input") -> dict[str, Path]:
    """The folders by name. An input is NAME=DIR, or a folder with its own name, which may have `=` in its path.

    Where names are equal, the parent folders that tell them apart are added: `runs/sft/evaluation/M` and
    `runs/redi/evaluation/M` are `sft/M` and `redi/M`. The same name twice is refused.
    """
    given = [each.partition("=") if "=" in each and not Path(each).is_dir() else ("", "", each) for each in inputs]
    unnamed = [Path(path).resolve() for name, _, path in given if not name]
    named: dict[str, Path] = {}
    for name, _, path in given:
        name = name or _distinct(Path(path).resolve(), unnamed)
        if name in named:
            raise UsageError(f"{option} names a folder twice: {name}; write NAME=DIR to name a row")
        named[name] = Path(path)
    return named


def _distinct(path: Path, others: list[Path]) -> str:
    """The folder's name after those of its parents, from the nearest, that tell it from others of the same name."""
    names, rivals = [path.name], [other for other in others if other != path and other.name == path.name]
    for depth in range(2, len(path.parts)):
        same = [other for other in rivals if other.parts[-depth:][:1] == path.parts[-depth:][:1]]
        if len(same) < len(rivals):
            names.insert(0, path.parts[-depth])
        rivals = same
    return "/".join(names)


def read_graded(folder: Path, name: str) -> GradedFolder:
    """Reads a folder; refuses one that is not graded, changed since, was cut, or lacks samples or problems."""
    file = folder / GRADED
    if not file.is_file():
        raise UsageError(f"--input {folder} has no {GRADED}; run `evaluate.py grade --input {folder}` first")
    grading = (read_manifest(folder) or {}).get("grading", {})
    if grading.get("generations_sha256") not in (None, fingerprint(folder / GENERATIONS)):
        raise UsageError(f"--input {folder}: {GENERATIONS} changed after it was graded; grade it again")
    config, asked = read_sampling(folder), read_asked(folder / BENCHMARK)
    cells: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for (benchmark, problem, index), row in read_samples(file, FIELDS):
        response = row.pop("response", None)  # too large to keep
        names = (*FIELDS, "correct_rllm_style", *(("prompt", "gold") if index == 0 else ()))
        kept = {name: row[name] for name in names if name in row}
        cells[benchmark][problem, index] = kept | {"num_waits": None if response is None else response.count("Wait")}
    found = sum(map(len, cells.values()))
    expected = sum(count["samples"] for count in grading.get("counts", {}).values()) or found
    if found != expected:
        raise UsageError(f"{file} has {found} rows of {expected}: it was cut; grade the folder again")
    for benchmark in asked:
        if missing := asked[benchmark].keys() - {problem for problem, _ in cells.get(benchmark, ())}:
            what = f"no samples of {benchmark} '{min(missing)}'"
            raise UsageError(f"{file}: {what}; finish generate, then grade again")
    scores = {}
    for each in [name for name in KNOWN if name in cells] + sorted(cells.keys() - KNOWN):
        known = asked.get(each) or asked.get(SECOND_GOLDS.get(each), {})
        scores[each] = _scores(cells[each], known, f"{file}, {each}")
    return GradedFolder(name, folder, {k: v for k, v in config.items() if v is not None}, scores, grading)


def _scores(cells: dict[tuple[str, int], dict[str, Any]], known: dict[str, Problem], where: str) -> Scores:
    ids, indices = sorted({name for name, _ in cells}), range(len({index for _, index in cells}))
    for name, index in product(ids, indices):
        if (name, index) not in cells:
            raise UsageError(f"{where}: sample {index} of '{name}' is missing; finish generate, then grade again")

    def array(key: str) -> np.ndarray:
        return np.array([[cells[name, index].get(key) for index in indices] for name in ids])

    def optional(key: str) -> np.ndarray | None:
        return None if any(cell.get(key) is None for cell in cells.values()) else array(key).astype(int)

    def problem(name: str) -> Problem:
        first = cells[name, 0]
        golds = texts_of(first["gold"]) if "gold" in first else None
        return Problem(name, known[name].problem if name in known else "", golds, first.get("prompt", ""))

    return Scores(
        ids=tuple(ids),
        correct=array("correct").astype(int),
        correct_rllm_style=optional("correct_rllm_style"),
        num_tokens=array("num_tokens"),
        num_waits=optional("num_waits"),
        truncated=array("finish_reason") == "length",
        status=array("status"),
        problems=tuple(map(problem, ids)),
    )


def check_comparable(first: GradedFolder, other: GradedFolder) -> None:
    """Raises a `UsageError` that names the first difference between two folders' protocols or problems.

    Only the benchmarks that both have are compared, of which there must be one.
    """
    for key in COMPARED:
        ours, theirs = (folder.protocol.get(key, "not recorded") for folder in (first, other))
        if ours != theirs:
            raise UsageError(f"{first.name} has {key} {ours}, {other.name} has {theirs}: not comparable")
    check_same_problems(first, other)
    shared = [name for name in first.scores if name in other.scores]
    if not shared:
        ours, theirs = (f"{folder.name} has {', '.join(folder.scores)}" for folder in (first, other))
        raise UsageError(f"{ours}, {theirs}: not comparable")
    for name in shared:
        ours, theirs = (folder.scores[name].correct.shape[1] for folder in (first, other))
        if ours != theirs:
            raise UsageError(
                f"{name}: {first.name} has {ours} samples per problem, {other.name} has {theirs}: not comparable; "
                "sample as many for both"
            )


def check_same_problems(first: GradedFolder, other: GradedFolder) -> None:
    """Raises a `UsageError` if a benchmark of both folders has other problems or reference answers in one of them."""
    for benchmark in [name for name in first.scores if name in other.scores]:
        ours, theirs = first.scores[benchmark], other.scores[benchmark]
        what = f"{first.name} and {other.name} have different problems in {benchmark}"
        templates = [folder.protocol.get("chat_template_sha256") for folder in (first, other)]
        if ours.ids != theirs.ids:
            raise UsageError(f"{what}, such as '{min(set(ours.ids) ^ set(theirs.ids))}'")
        for name, one, two in zip(ours.ids, ours.problems, theirs.problems, strict=False):
            same_golds = None in (one.answer, two.answer) or one.answer == two.answer
            if not same_golds or not _same_text(one, two, templates[0] == templates[1]):
                raise UsageError(
                    f"{what}: the {'text' if same_golds else 'reference answer'} of '{name}' differs, so their "
                    "scores cannot be compared; sample and grade both with the same file"
                )


def _same_text(one: Problem, two: Problem, same_template: bool) -> bool:
    """Whether two problems are the same text, as far as it is known."""
    if one.problem and two.problem:
        return one.problem == two.problem
    if not (one.problem or two.problem):  # the prompts of different templates differ
        return one.prompt == two.prompt or not same_template
    known, prompt = (one.problem, two.prompt) if one.problem else (two.problem, one.prompt)
    return not prompt or known.strip() in prompt
