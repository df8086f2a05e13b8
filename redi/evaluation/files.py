"""The files of an evaluation folder, which generation, grading and the report pass on to each other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_lines, parse_line

GENERATIONS, GRADED, BENCHMARK, SAMPLING = "generations.jsonl", "graded.jsonl", "benchmark.jsonl", "sampling.json"
_OLD_SAMPLING = "generation_config.json"  # until 0.1; Hugging Face's name for something else


def texts_of(value: Any) -> list[Any]:
    """A value that stands alone or in a list, as a list."""
    return value if isinstance(value, list) else [value]


def _is_texts(value: Any) -> bool:
    return value != [] and all(isinstance(text, str) and text.strip() for text in texts_of(value))


# What the value of a key must be, in words and as a test.
Kind = tuple[str, Callable[[Any], bool]]
TEXTS: Kind = ("text or a list of texts, none of them empty", _is_texts)
_TEXT: Kind = ("text", lambda value: isinstance(value, str))
_COUNT: Kind = ("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("benchmark", "problem", "prompt", "response", "finish_reason", "key", "status"), _TEXT),
    "id": ("text or a whole number", lambda value: type(value) in (str, int)),  # not bool, which is an int
    "sample_idx": _COUNT,
    "num_tokens": _COUNT,
    "correct": ("true or false", lambda value: isinstance(value, bool)),
    "correct_rllm_style": ("true, false or null", lambda value: value is None or isinstance(value, bool)),
    "answer": ("text or null", lambda value: value is None or isinstance(value, str)),
    "gold": TEXTS,
}
SampleKey = tuple[str, str, int]  # benchmark, id as text, sample index


def check(row: dict[str, Any], where: str, kinds: dict[str, Kind] = KINDS) -> None:
    """Refuses a row with a value of the wrong kind; the message begins with `where` and names the key."""
    for key, value in row.items():
        words, holds = kinds.get(key, ("", lambda _: True))
        if not holds(value):
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
            raise UsageError(f"{where}: '{key}' must be {words}, not {shown}")


def sample_key(row: dict[str, Any], path: Path, number: int, seen: dict[SampleKey, int]) -> SampleKey:
    """What identifies a sample: the ids 1 and "1" are the same. `seen` maps earlier samples to their lines.

    Refuses a row that has a value of the wrong kind, or is the second of its sample.
    """
    where = f"{path}, line {number}"
    check(row, where)
    key = row["benchmark"], str(row["id"]), row["sample_idx"]
    if (first := seen.setdefault(key, number)) != number:
        what = f"sample {key[2]} of {key[0]} '{key[1]}' occurs twice, first on line {first}"
        raise UsageError(f"{where}: {what}; remove one of the lines")
    return key


def read_samples(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[SampleKey, dict[str, Any]]]:
    """Yields the rows of `generations.jsonl` or `graded.jsonl` with their keys; refuses a row that lacks a field."""
    seen: dict[SampleKey, int] = {}
    for number, _, row in iter_lines(path, ("benchmark", "id", "sample_idx", *fields)):
        yield sample_key(row, path, number, seen), row
    if not seen:
        raise UsageError(f"{path} has no rows")


def sampling_file(folder: Path) -> Path | None:
    """The file with the options that a folder's answers were sampled with; None if there is none."""
    files = [folder / name for name in (SAMPLING, _OLD_SAMPLING)]
    return next((file for file in files if file.is_file()), None)


def read_sampling(folder: Path) -> dict[str, Any]:
    """The options that a folder's answers were sampled with, empty if it has none; refuses a damaged file."""
    path = sampling_file(folder)
    return {} if path is None else parse_line(path.read_bytes(), str(path))
