"""JSON lines: one object a line. Errors name the file and the line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError


def line(row: dict[str, Any]) -> str:
    """A row as one line. ASCII, since a model may write half a surrogate pair, which UTF-8 cannot hold."""
    return json.dumps(row) + "\n"


def parse_line(text: str, where: str, fields: Iterable[str]) -> dict[str, Any]:
    """One row, checked to be an object with `fields`."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not valid JSON ({error.msg}); repair or remove the line") from None
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object")
    for field in fields:
        if field not in row:
            raise UsageError(f"{where}: no '{field}'")
    return row


def iter_jsonl(path: Path, fields: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file one by one, for a run's answers may be gigabytes.

    Raises:
        UsageError: there is no such file, a line is no JSON object, or one of `fields` is missing; names the line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    fields = tuple(fields)
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        for number, text in enumerate(stream, start=1):
            if text.strip():
                yield parse_line(text, f"{path}, line {number}", fields)
