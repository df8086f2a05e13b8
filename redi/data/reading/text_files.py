"""Streams JSON lines, JSON and CSV as record batches of a schema that is inferred from every row."""

import csv
import io
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.reading.data_files import kind_of
from redi.runs.errors import UsageError, usage_errors
from redi.runs.jsonl import iter_lines, open_bytes, parse_json

BATCH_BYTES = 16_000_000  # of text parsed at a time; as Python objects it takes a few times as much

MISFITS = (pa.ArrowException, UnicodeEncodeError, OverflowError)  # the second: JSON can spell half a surrogate pair
NUMBER_AS_TEXT = "answer"  # common in new domains: a number is the answer's text

PlacedRows = dict[str, dict[str, Any]]  # by their place in the file, as "line 3"


def read(file: Path, schema: pa.Schema, defaults: Mapping[str, str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file. Keys outside the schema are ignored; missing ones have their default, or null.

    Raises:
        UsageError: a line is malformed, or a value does not fit the schema; the message names line and key.
    """
    for rows in _batches(file):
        arrays = [_array(file, rows, field.name, field.type, (defaults or {}).get(field.name)) for field in schema]
        yield pa.record_batch(arrays, schema=schema)


def infer_schema(files: Sequence[Path], columns: Collection[str] | None = None) -> tuple[pa.Schema, int, int]:
    """The schema of all rows of all files, their number, and how many answers are numbers, which are read as text.

    Args:
        files: of which every row is parsed.
        columns: the keys to look at, all by default; the type of others is null.

    Raises:
        UsageError: a line is malformed, or a key has values of two types, a value that Arrow cannot hold, or nothing
            but empty objects; the message names line and key.
    """
    types: dict[str, pa.DataType] = {}
    num_rows = num_numbers = 0
    for file in files:
        for rows in _batches(file):
            num_rows += len(rows)
            num_numbers += sum(_is_number(row.get(NUMBER_AS_TEXT)) for row in rows.values())
            for name in dict.fromkeys(chain.from_iterable(rows.values())):
                looked_at = columns is None or name in columns
                known = types.setdefault(name, pa.null())
                types[name] = _widened(file, rows, name, known) if looked_at else known
    for name, type_ in types.items():
        if _has_empty_struct(type_):
            raise UsageError(
                f"{files[0]}: key '{name}' holds only empty objects, {{}}, which parquet cannot keep; remove it"
            )
    return pa.schema(list(types.items())), num_rows, num_numbers


def _widened(file: Path, rows: PlacedRows, name: str, type_: pa.DataType) -> pa.DataType:
    """The type that holds a key's values so far, of type `type_`, and those of `rows`."""

    def widen(values: list[Any], known: pa.DataType) -> pa.DataType:
        fields = [pa.field(name, known), pa.field(name, pa.array(values).type)]
        return pa.unify_schemas([pa.schema([field]) for field in fields], promote_options="permissive").field(0).type

    values = _values(rows, name)
    try:
        return widen(values, type_)
    except MISFITS:
        for place, value in zip(rows, values, strict=True):
            with usage_errors(lambda error, place=place: _misfit(file, place, name, error), *MISFITS):
                type_ = widen([value], type_)
        return type_


def _array(file: Path, rows: PlacedRows, name: str, type_: pa.DataType, default: str | None) -> pa.Array:
    values = _values(rows, name, default)
    try:
        return pa.array(values, type_)
    except MISFITS:
        for place, value in zip(rows, values, strict=True):
            with usage_errors(lambda error, place=place: _misfit(file, place, name, error), *MISFITS):
                pa.array([value], type_)
        raise


def _misfit(file: Path, place: str, name: str, error: Exception) -> str:
    return f"{file}, {place}: key '{name}': {error}; fix the value, or leave the key out of all rows"


def _values(rows: PlacedRows, name: str, default: str | None = None) -> list[Any]:
    values = [row.get(name, default) for row in rows.values()]
    return [str(value) if _is_number(value) else value for value in values] if name == NUMBER_AS_TEXT else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _batches(file: Path) -> Iterator[PlacedRows]:
    """The rows of a file, about `BATCH_BYTES` at a time."""
    rows: PlacedRows = {}
    num_bytes = 0
    for place, row_bytes, row in {"csv": _csv_rows, "json": _json_rows, "jsonl": _lines}[kind_of(file)](file):
        rows[place] = row
        num_bytes += row_bytes
        if num_bytes >= BATCH_BYTES:
            yield rows
            rows, num_bytes = {}, 0
    if rows:
        yield rows


def _lines(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    return ((f"line {number}", num_bytes, row) for number, num_bytes, row in iter_lines(file))


def _json_rows(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a JSON array, which is parsed as a whole; a file without one holds JSON lines."""
    with open_bytes(file) as stream:
        if stream.read(1024).decode("utf-8-sig", "ignore").lstrip()[:1] != "[":
            yield from _lines(file)
            return
        stream.seek(0)
        text = stream.read()
    rows = parse_json(text, str(file))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UsageError(f"{file}, row {number}: not a JSON object but {type(row).__name__}; remove the row")
        yield f"row {number}", len(text) // len(rows), row


def _csv_rows(file: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a CSV file with a header. All cells are text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    errors = usage_errors(lambda error: f"{file}: {error}; fix the file", csv.Error, UnicodeDecodeError)
    with errors, open_bytes(file) as stream:
        reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise UsageError(f"{file}: two columns have the same name; its header is {', '.join(names)}")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{file}, line {reader.line_num}: a row must have {len(names)} cells, as the header")
            yield f"line {reader.line_num}", sum(map(len, row.values())), row


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return pa.types.is_struct(type_) and not children or any(map(_has_empty_struct, children))
