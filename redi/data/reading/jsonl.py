"""Streaming a corpus from JSON lines: one row a line, blank lines skipped, keys that nobody asked for ignored."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.reading.schema import DEFAULTS, SCHEMA, VERIFIERS
from redi.runs.errors import UsageError

BATCH_BYTES = 16_000_000  # of lines parsed at a time; as Python objects they take a few times as much

CORRECTNESS = pa.struct([SCHEMA.field(name) for name in VERIFIERS])
TYPES = {field.name: field.type for field in SCHEMA if field.name not in VERIFIERS} | {"correctness": CORRECTNESS}

MISFITS = (pa.ArrowException, UnicodeEncodeError)  # the latter for half a surrogate pair, which JSON can spell


def schema_of(file: Path) -> pa.Schema:
    """The columns that the first row has; all of them where there is no row, since none then lacks any.

    Raises:
        UsageError: the first row is no JSON object.
    """
    for _, _, row in _rows(file):
        fields = {name: TYPES.get(name, pa.null()) for name in row}
        if isinstance(row.get("correctness"), dict):
            fields["correctness"] = pa.struct(
                [(name, SCHEMA.field(name).type) for name in VERIFIERS if name in row["correctness"]]
            )
        return pa.schema(fields)
    return pa.schema(TYPES)


def count_rows(file: Path) -> int:
    """The lines of a file that are not blank."""
    with file.open("rb") as lines:
        return sum(not line.isspace() for line in lines)


def read(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file with `columns`; `struct.field` reads the whole struct.

    A key that a row lacks has its default there, or null.

    Raises:
        UsageError: a line is no JSON object, or a value is of another type; the message names the line.
    """
    names = {column.partition(".")[0] for column in columns}
    schema = pa.schema({name: type_ for name, type_ in TYPES.items() if name in names})
    rows: dict[int, dict[str, Any]] = {}  # by line number
    num_bytes = 0
    for number, line_bytes, row in _rows(file):
        rows[number] = row
        num_bytes += line_bytes
        if num_bytes >= BATCH_BYTES:
            yield _record_batch(file, rows, schema)
            rows, num_bytes = {}, 0
    if rows:
        yield _record_batch(file, rows, schema)


def _rows(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yields each row with its line number, from 1, and its size in bytes."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                what = f"{error.msg} at column {error.colno}"
                raise UsageError(f"--input {file} line {number} is not JSON: {what}; mend or drop it") from error
            except UnicodeDecodeError as error:
                raise UsageError(f"--input {file} line {number} is not UTF-8: {error}; mend or drop it") from error
            if not isinstance(row, dict):
                raise UsageError(f"--input {file} line {number} is no JSON object but {type(row).__name__}; drop it")
            yield number, len(line), row


def _record_batch(file: Path, rows: dict[int, dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for name, type_ in zip(schema.names, schema.types, strict=True):
        values = [row.get(name, DEFAULTS.get(name)) for row in rows.values()]
        try:
            arrays.append(_array(values, type_))
        except MISFITS:
            number, error = _first_misfit(rows, values, type_)
            raise UsageError(f"--input {file} line {number}: '{name}' is not of type {type_}: {error}") from error
    return pa.record_batch(arrays, schema=schema)


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    # Arrow would take a text for the list of its characters.
    if pa.types.is_list(type_) and not all(value is None or isinstance(value, list) for value in values):
        raise pa.ArrowTypeError("it is no list")
    return pa.array(values, type_)


def _first_misfit(rows: dict[int, dict[str, Any]], values: list[Any], type_: pa.DataType) -> tuple[int, Exception]:
    """The line number of the first value that does not fit the type, and what is wrong with it."""
    for number, value in zip(rows, values, strict=True):
        try:
            _array([value], type_)
        except MISFITS as error:
            return number, error
    raise AssertionError("each value fits, but not all of them")
