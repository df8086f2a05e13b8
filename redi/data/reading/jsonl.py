"""Streams JSON lines as record batches of a given schema, or of one inferred from every row."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.runs.errors import UsageError, usage_errors
from redi.runs.jsonl import iter_lines

BATCH_BYTES = 16_000_000  # of lines parsed at a time; as Python objects they take a few times as much

MISFITS = (pa.ArrowException, UnicodeEncodeError, OverflowError)  # the second: JSON can spell half a surrogate pair

NumberedRows = dict[int, dict[str, Any]]  # by line number


def count_rows(file: Path) -> int:
    """The lines of a file that are not blank."""
    with file.open("rb") as lines:
        return sum(not line.isspace() for line in lines)


def read(file: Path, schema: pa.Schema, defaults: Mapping[str, str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file. Keys outside the schema are ignored; missing ones have their default, or null.

    Raises:
        UsageError: a line is not a JSON object, or a value is of another type; the message names the line.
    """
    defaults = defaults or {}
    for rows in _batches(file):
        arrays = [_column(file, rows, field, defaults.get(field.name)) for field in schema]
        yield pa.record_batch(arrays, schema=schema)


def _column(file: Path, rows: NumberedRows, field: pa.Field, default: str | None) -> pa.Array:
    values = [row.get(field.name, default) for row in rows.values()]

    def message(_: Exception) -> str:
        number, error = _first_misfit(rows, values, field.type)
        return f"{file}, line {number}: '{field.name}' is not of type {field.type}: {error}"

    with usage_errors(message, *MISFITS):
        return _array(values, field.type)


def infer_schema(files: Sequence[Path]) -> tuple[pa.Schema, int]:
    """The schema of all rows of all files, and their number.

    Raises:
        UsageError: a line is not a JSON object, a key has values of two types, or holds nothing but empty objects.
    """
    schema, num_rows = pa.schema([]), 0
    for file in files:
        for rows in _batches(file):
            num_rows += len(rows)
            where = f"{file}, lines {min(rows)} to {max(rows)}"
            schema = _unify(schema, list(rows.values()), where)
    for field in schema:
        if _has_empty_struct(field.type):
            raise UsageError(
                f"{files[0]}: key '{field.name}' holds only empty objects, {{}}, which parquet cannot keep; remove it"
            )
    return schema, num_rows


def _unify(schema: pa.Schema, rows: list[dict[str, Any]], where: str) -> pa.Schema:
    message = f"{where}: a key has values of two types"
    with usage_errors(lambda error: f"{message}: {error}; fix the file", *MISFITS):
        found = pa.schema(list(pa.array(rows).type))
        return pa.unify_schemas([schema, found], promote_options="permissive")


def _batches(file: Path) -> Iterator[NumberedRows]:
    """The rows of a file, about `BATCH_BYTES` at a time."""
    rows: NumberedRows = {}
    num_bytes = 0
    for number, line_bytes, row in iter_lines(file):
        rows[number] = row
        num_bytes += line_bytes
        if num_bytes >= BATCH_BYTES:
            yield rows
            rows, num_bytes = {}, 0
    if rows:
        yield rows


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    # Arrow would read a text as the list of its characters.
    if pa.types.is_list(type_) and not all(value is None or isinstance(value, list) for value in values):
        raise pa.ArrowTypeError("not a list")
    return pa.array(values, type_)


def _first_misfit(rows: NumberedRows, values: list[Any], type_: pa.DataType) -> tuple[int, Exception]:
    """The line number of the first value that does not fit the type, and the error."""
    for number, value in zip(rows, values, strict=True):
        try:
            _array([value], type_)
        except MISFITS as error:
            return number, error
    raise AssertionError("each value fits, but not all of them together")


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return pa.types.is_struct(type_) and not children or any(map(_has_empty_struct, children))
