"""Streams JSON lines, JSON and CSV as record batches of a schema that is inferred from every row."""

import csv
import io
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from redi.data.reading.data_files import kind_of
from redi.data.streams import chunks
from redi.runs.errors import UsageError, usage_errors
from redi.runs.jsonl import iter_lines, open_bytes, parse_json

BATCH_BYTES = 16_000_000  # of text parsed at a time; as Python objects it takes a few times as much

MISFITS = (pa.ArrowException, UnicodeEncodeError, OverflowError)  # the second: JSON can spell half a surrogate pair
NUMBER_AS_TEXT = "answer"  # common in new domains: a number is the answer's text

PlacedRow = tuple[str, int, dict[str, Any]]  # its place in the file, as "line 3", its bytes, and the row


def read(file: Path, schema: pa.Schema, defaults: Mapping[str, str | None]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file. Keys outside the schema are ignored; missing ones have their default, or null."""
    for rows in _batches(file):
        columns = [
            _fold(file, rows, name, partial(_extended, type_), pa.array([], type_), defaults.get(name))
            for name, type_ in zip(schema.names, schema.types, strict=True)
        ]
        yield pa.record_batch(columns, schema=schema)


def infer_schema(files: Sequence[Path], columns: Collection[str] | None = None) -> tuple[pa.Schema, int, int]:
    """The schema of all rows of all files, their number, and how many answers are numbers, which are read as text.

    The type of keys outside `columns`, all by default, is null. A malformed line, a key with values of two types, a
    value that Arrow cannot hold, and a key of nothing but empty objects are `UsageError`s that name line and key.
    """
    types: dict[str, pa.DataType] = {}
    num_rows = num_numbers = 0
    for file in files:
        for rows in _batches(file):
            num_rows += len(rows)
            for name in dict.fromkeys(chain.from_iterable(row for _, _, row in rows)):
                types.setdefault(name, pa.null())
                if columns is None or name in columns:
                    types[name] = _fold(file, rows, name, partial(_widened, name), types[name])
                    if name == NUMBER_AS_TEXT:
                        num_numbers += sum(_is_number(row.get(name)) for _, _, row in rows)
    for name, type_ in types.items():
        if _has_empty_struct(type_):
            raise UsageError(f"{files[0]}: key '{name}' holds only empty objects, {{}}, unknown to parquet; remove it")
    return pa.schema(list(types.items())), num_rows, num_numbers


def _widened(name: str, type_: pa.DataType, values: list[Any]) -> pa.DataType:
    schemas = [pa.schema([(name, known)]) for known in (type_, pa.array(values).type)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _extended(type_: pa.DataType, array: pa.Array, values: list[Any]) -> pa.Array:
    return pa.concat_arrays([array, pa.array(values, type_)])


def _fold(
    file: Path, rows: list[PlacedRow], name: str, fold: Callable[[Any, list[Any]], Any], made: Any, default: Any = None
) -> Any:
    """`fold(made, values)` of a key's values; if that fails, of one after the other, to name the row that fails."""
    values = [row.get(name, default) for _, _, row in rows]
    if name == NUMBER_AS_TEXT:
        values = [str(value) if _is_number(value) else value for value in values]
    try:
        return fold(made, values)
    except MISFITS:
        remedy = "fix the value, or leave the key out of all rows"
        for (place, _, _), value in zip(rows, values, strict=True):
            where = f"{file}, {place}: key '{name}'"
            with usage_errors(lambda error, where=where: f"{where}: {error}; {remedy}", *MISFITS):
                made = fold(made, [value])
        return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _batches(file: Path) -> Iterator[list[PlacedRow]]:
    """The rows of a file, about `BATCH_BYTES` at a time."""
    rows = {"csv": _csv_rows, "json": _json_rows, "jsonl": _lines}[kind_of(file)](file)
    return chunks(rows, itemgetter(1), BATCH_BYTES)


def _lines(file: Path) -> Iterator[PlacedRow]:
    return ((f"line {number}", num_bytes, row) for number, num_bytes, row in iter_lines(file))


def _json_rows(file: Path) -> Iterator[PlacedRow]:
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


def _csv_rows(file: Path) -> Iterator[PlacedRow]:
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
