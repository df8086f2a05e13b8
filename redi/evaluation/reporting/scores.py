"""Reads graded folders into arrays, and checks that they are complete and comparable."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from redi.evaluation.benchmarks import KNOWN, SECOND_GOLDS, Problem, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, read_samples, read_sampling, sampling_file, texts_of
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint
from redi.runs.manifest import read_manifest

FIELDS = ("finish_reason", "num_tokens", "correct", "status")
PROTOCOL = ("protocol", "n", "limit", "temperature", "top_p", "max_tokens", "prompt", "force_think", "chat_template")
PROTOCOL += ("backend", "dtype", "seed")
MAY_DIFFER = ("protocol", "n", "limit", "chat_template", "backend", "dtype", "seed")  # samples are compared themselves


class Question(NamedTuple):
    """What was asked, and the answers it was graded by; empty or None where the folder does not say."""

    problem: str
    golds: tuple[str, ...] | None
    prompt: str


@dataclass(frozen=True)
class Scores:
    """One model on one benchmark. Array rows are problems in the order of `ids`, columns are sample indices."""

    ids: tuple[str, ...]
    correct: np.ndarray  # (P, n)
    correct_rllm_style: np.ndarray | None  # (P, n); None if the folder has no second verdicts
    num_tokens: np.ndarray  # (P, n)
    num_waits: np.ndarray | None  # (P, n), how often a response says "Wait"; None without responses
    truncated: np.ndarray  # (P, n)
    no_answer: np.ndarray  # (P, n), includes no_think_end
    num_timeouts: int
    num_errors: int
    questions: tuple[Question, ...] = ()  # (P)


@dataclass(frozen=True)
class GradedFolder:
    """One graded folder: a row of the report. `grading` is what the manifest records of it."""

    name: str
    path: Path
    protocol: dict[str, Any]
    scores: dict[str, Scores]
    template: str | None = None  # hash of the chat template
    grading: dict[str, Any] = field(default_factory=dict)


def name_folders(inputs: list[str], option: str = "--input") -> dict[str, Path]:
    """The folders by name. An input is NAME=DIR, or a folder with its own name.

    Where names are equal, the parent folders that tell them apart are added: `runs/sft/evaluation/M` and
    `runs/redi/evaluation/M` are `sft/M` and `redi/M`.

    Raises:
        UsageError: two have the same name.
    """
    split = [_name_and_path(str(each)) for each in inputs]
    alike: dict[str, list[Path]] = defaultdict(list)
    for name, path in split:
        if not name:
            alike[path.resolve().name].append(path.resolve())
    names = [name or _distinct(path.resolve(), alike[path.resolve().name]) for name, path in split]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{option} names a folder twice: {name}; write NAME=DIR to name a row")
    return dict(zip(names, (path for _, path in split), strict=True))


def _name_and_path(text: str) -> tuple[str, Path]:
    """NAME=DIR in two; the name is empty for a folder alone, which may have `=` in its path."""
    if "=" not in text or Path(text).is_dir():
        return "", Path(text)
    name, _, path = text.partition("=")
    return name, Path(path)


def _distinct(path: Path, alike: list[Path]) -> str:
    """The folder's name after those of its parents, from the nearest, that tell it from others of the same name."""
    names, rivals = [path.name], [other for other in alike if other != path]
    for depth in range(2, len(path.parts)):
        same = [other for other in rivals if other.parts[-depth:][:1] == path.parts[-depth:][:1]]
        if len(same) < len(rivals):
            names.insert(0, path.parts[-depth])
        rivals = same
    return "/".join(names)


def read_graded(folder: Path, name: str) -> GradedFolder:
    """Reads one graded folder.

    Raises:
        UsageError: it is not graded, changed after grading, was cut, or lacks samples or problems.
    """
    if not (folder / GRADED).is_file():
        raise UsageError(f"--input {folder} has no {GRADED}; run `evaluate.py grade --input {folder}` first")
    grading = (read_manifest(folder) or {}).get("grading", {})
    graded = grading.get("generations_sha256")
    if graded is not None and graded != fingerprint(folder / GENERATIONS):
        raise UsageError(f"--input {folder}: {GENERATIONS} changed after it was graded; grade it again")
    config = read_sampling(folder) if sampling_file(folder) else {}
    protocol = {key: config[key] for key in PROTOCOL if config.get(key) is not None}
    asked = read_asked(folder / BENCHMARK)
    questions: dict[str, dict[str, Question]] = defaultdict(dict)
    rows: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for (benchmark, problem, index), row in read_samples(folder / GRADED, FIELDS):
        if problem not in questions[benchmark]:
            problems = asked.get(benchmark) or asked.get(SECOND_GOLDS.get(benchmark), {})
            questions[benchmark][problem] = _question(row, problems.get(problem))
        rows[benchmark][problem, index] = _slim(row)
    _check_complete(folder, sum(map(len, rows.values())), questions, asked, grading.get("counts", {}))
    scores = {
        benchmark: _scores(rows[benchmark], questions[benchmark], f"{folder / GRADED}, {benchmark}")
        for benchmark in [name for name in KNOWN if name in rows] + sorted(rows.keys() - KNOWN)
    }
    return GradedFolder(name, folder, protocol, scores, config.get("chat_template_sha256"), grading)


def _question(row: dict[str, Any], problem: Problem | None) -> Question:
    golds = tuple(texts_of(row["gold"])) if "gold" in row else None
    return Question(problem.problem if problem else "", golds, row.get("prompt", ""))


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    slim = {name: row[name] for name in FIELDS} | {"correct_rllm_style": row.get("correct_rllm_style")}
    return slim | {"num_waits": row["response"].count("Wait") if "response" in row else None}


def _check_complete(
    folder: Path,
    num_rows: int,
    found: dict[str, dict[str, Question]],
    asked: dict[str, dict[str, Problem]],
    counts: dict[str, dict[str, int]],
) -> None:
    expected = sum(count["samples"] for count in counts.values())
    if counts and expected != num_rows:
        raise UsageError(f"{folder / GRADED} has {num_rows} rows of {expected}: it was cut; grade the folder again")
    for benchmark, problems in asked.items():
        for problem in problems:
            if problem not in found.get(benchmark, {}):
                raise UsageError(
                    f"{folder / GRADED}: no samples of {benchmark} '{problem}'; finish generate, then grade again"
                )


def _scores(cells: dict[tuple[str, int], dict[str, Any]], questions: dict[str, Question], where: str) -> Scores:
    ids = sorted(questions)
    num_samples = len({index for _, index in cells})
    for name in ids:
        for index in range(num_samples):
            if (name, index) not in cells:
                raise UsageError(f"{where}: sample {index} of '{name}' is missing; finish generate, then grade again")

    def array(value: Callable[[dict[str, Any]], int]) -> np.ndarray:
        return np.array([[value(cells[name, index]) for index in range(num_samples)] for name in ids])

    def optional(key: str) -> np.ndarray | None:
        return None if any(row[key] is None for row in cells.values()) else array(lambda row: int(row[key]))

    return Scores(
        ids=tuple(ids),
        correct=array(lambda row: int(row["correct"])),
        correct_rllm_style=optional("correct_rllm_style"),
        num_tokens=array(lambda row: row["num_tokens"]),
        num_waits=optional("num_waits"),
        truncated=array(lambda row: row["finish_reason"] == "length"),
        no_answer=array(lambda row: row["status"] in ("no_answer", "no_think_end")),
        num_timeouts=sum(row["status"] == "timeout" for row in cells.values()),
        num_errors=sum(row["status"] == "error" for row in cells.values()),
        questions=tuple(questions[name] for name in ids),
    )


def check_comparable(first: GradedFolder, other: GradedFolder) -> None:
    """Raises a `UsageError` that names the first difference between two folders' protocols or problems.

    Only the benchmarks that both have are compared, of which there must be one.
    """
    for key in PROTOCOL:
        ours, theirs = first.protocol.get(key, "not recorded"), other.protocol.get(key, "not recorded")
        if ours != theirs and key not in MAY_DIFFER:
            raise UsageError(f"{first.name} has {key} {ours}, {other.name} has {theirs}: not comparable")
    if not first.scores.keys() & other.scores.keys():
        raise UsageError(
            f"{first.name} has {', '.join(first.scores)}, {other.name} has {', '.join(other.scores)}: not comparable"
        )
    check_same_problems(first, other)
    for benchmark in first.scores.keys() & other.scores.keys():
        shapes = [folder.scores[benchmark].correct.shape for folder in (first, other)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{benchmark}: {first.name} has {shapes[0][1]} samples per problem, {other.name} has {shapes[1][1]}: "
                "not comparable; sample as many for both"
            )


def check_same_problems(first: GradedFolder, other: GradedFolder) -> None:
    """Raises a `UsageError` if a benchmark of both folders has other problems or reference answers in one of them."""
    same_template = first.template == other.template
    for benchmark in [name for name in first.scores if name in other.scores]:
        ours, theirs = first.scores[benchmark], other.scores[benchmark]
        if ours.ids != theirs.ids:
            odd = min(set(ours.ids) ^ set(theirs.ids))
            raise UsageError(f"{first.name} and {other.name} have different problems in {benchmark}, such as '{odd}'")
        for name, one, two in zip(ours.ids, ours.questions, theirs.questions, strict=False):
            what = "reference answer" if None not in (one.golds, two.golds) and one.golds != two.golds else None
            what = what or (None if _same_text(one, two, same_template) else "text")
            if what:
                raise UsageError(
                    f"{first.name} and {other.name} have different problems in {benchmark}: the {what} of '{name}' "
                    "differs, so their scores cannot be compared; sample and grade both with the same file"
                )


def _same_text(one: Question, two: Question, same_template: bool) -> bool:
    """Whether two questions are the same text, as far as it is known."""
    if one.problem and two.problem:
        return one.problem == two.problem
    if not (one.problem or two.problem):  # the prompts of different templates differ
        return one.prompt == two.prompt or not same_template
    known, prompt = (one.problem, two.prompt) if one.problem else (two.problem, one.prompt)
    return not prompt or known.strip() in prompt


def common_protocol(folders: list[GradedFolder]) -> dict[str, Any]:
    """The folders' common options, with a list of values for those that differ. Empty if nothing is recorded."""
    common = {}
    for key in PROTOCOL:
        found: list[Any] = []
        for folder in folders:
            if folder.protocol.get(key) not in found:
                found.append(folder.protocol.get(key))
        if found != [None]:
            common[key] = found[0] if len(found) == 1 else found
    return common
