"""Reads and writes JSON lines, one object a line. Errors name the file and the line."""

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from redi.runs.errors import UsageError, usage_errors

DECOMPRESS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def line(row: dict[str, Any]) -> str:
    """A row as one line. ASCII, since a model may write half a surrogate pair, which UTF-8 cannot hold."""
    return json.dumps(row) + "\n"


def parse_line(text: str | bytes, where: str, fields: Iterable[str] = ()) -> dict[str, Any]:
    """Parses one row; a `UsageError`, beginning with `where`, unless it is an object in UTF-8 with all `fields`."""
    row = parse_json(text, where)
    if not isinstance(row, dict):
        raise UsageError(f"{where}: not a JSON object but {type(row).__name__}; fix or remove the line")
    for field in fields:
        if field not in row:
            raise UsageError(f"{where}: no '{field}'")
    return row


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses any JSON value; a `UsageError` begins with `where`."""

    def message(error: Exception) -> str:
        what = str(error)
        if isinstance(error, json.JSONDecodeError):
            what = f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        elif isinstance(error, UnicodeDecodeError):
            what = f"not UTF-8 ({error})"
        return f"{where}: {what}; fix or remove the line"

    with usage_errors(message, ValueError, RecursionError):
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(text.removeprefix("\ufeff").rstrip(), object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(name for name in names if names.count(name) > 1)}' occurs twice")
    return row


def iter_jsonl(path: Path, fields: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file one by one, since a run's answers may be gigabytes; raises as `iter_lines`."""
    return (row for _, _, row in iter_lines(path, fields))


def iter_lines(path: Path, fields: Iterable[str] = ()) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yields each row with the number of its line, from 1, and the line's size in bytes; blank lines are skipped.

    Lines end with LF, CR or CRLF. A file may begin with a byte order mark, and be compressed (`open_bytes`). Raises
    as `open_bytes` and `parse_line`.
    """
    fields, number = tuple(fields), 0
    with open_bytes(path) as stream:
        for chunk in stream:
            for text in chunk.splitlines(keepends=True):  # a chunk ends with LF and may hold several CR
                number += 1
                if text.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip():
                    yield number, len(text), parse_line(text, f"{path}, line {number}", fields)


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be read; .gz, .bz2 and .xz are decompressed. A damaged or missing one is a `UsageError`."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    damaged = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
    errors = usage_errors(lambda error: f"{path}: damaged ({error}); fetch or write it again", *damaged)
    with errors, DECOMPRESS.get(path.suffix, open)(path, "rb") as stream:
        yield stream
