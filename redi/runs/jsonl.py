"""Reads and writes JSON lines, one object a line. Errors name the file and the line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError


def line(row: dict[str, Any]) -> str:
    """A row as one line. ASCII, since a model may write half a surrogate pair, which UTF-8 cannot hold."""
    return json.dumps(row) + "\n"


def parse_line(text: str | bytes, where: str, fields: Iterable[str] = ()) -> dict[str, Any]:
    """Parses one row.

    Raises:
        UsageError: the text is not a JSON object in UTF-8, or lacks one of `fields`; begins with `where`.
    """
    try:
        row = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        what = f"{error.msg} at column {error.colno}"
        raise UsageError(f"{where}: not valid JSON ({what}); fix or remove the line") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 ({error}); fix or remove the line") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object but {type(row).__name__}; fix or remove the line")
    for field in fields:
        if field not in row:
            raise UsageError(f"{where}: no '{field}'")
    return row


def iter_jsonl(path: Path, fields: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file one by one, since a run's answers may be gigabytes. Blank lines are skipped.

    Raises:
        UsageError: the file does not exist, or as `parse_line`.
    """
    return (row for _, _, row in iter_lines(path, fields))


def iter_lines(path: Path, fields: Iterable[str] = ()) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """As `iter_jsonl`; yields each row with the number of its line, from 1, and the line's size in bytes."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    fields = tuple(fields)
    with path.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.isspace():
                yield number, len(text), parse_line(text, f"{path}, line {number}", fields)
