"""The columns of a raw corpus, those of open-r1/OpenR1-Math-Raw: names, types, defaults and checks."""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.runs.errors import UsageError

VERIFIERS = ("llama_verification", "math_verify_reparsed_answer")
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("problem_is_valid", pa.string()),
        ("source", pa.string()),
        ("generations", pa.list_(pa.string())),
        ("finish_reasons", pa.list_(pa.string())),
        *((name, pa.list_(pa.bool_())) for name in VERIFIERS),
    ]
)
CORRECTNESS = pa.field("correctness", pa.struct([SCHEMA.field(name) for name in VERIFIERS]))
# Where a corpus holds each of them: the verifiers' lists are fields of the struct `correctness`.
PATHS = {name: f"correctness.{name}" if name in VERIFIERS else name for name in SCHEMA.names}
# For a corpus without the column: whoever collects traces for problems wants to use them.
DEFAULTS = {"problem_is_valid": "Yes", "source": "unknown", "finish_reasons": None}
# What the selection reads.
SELECTION = ("problem", "problem_is_valid", "source", "generations", "finish_reasons", *VERIFIERS)


def schema_in_files(columns: Sequence[str]) -> pa.Schema:
    """The schema in which a file holds `columns`, with the verifiers' lists inside the struct `correctness`."""
    fields = {}
    for name in columns:
        fields |= {CORRECTNESS.name: CORRECTNESS} if name in VERIFIERS else {name: SCHEMA.field(name)}
    return pa.schema(list(fields.values()))


def schema_of_row(row: dict[str, Any]) -> pa.Schema:
    """The columns that a row of JSON lines shows a file to have. Types are those of `SCHEMA`, others null."""
    known = schema_in_files(SCHEMA.names)
    fields = {name: known.field(name).type if name in known.names else pa.null() for name in row}
    if isinstance(row.get(CORRECTNESS.name), dict):
        fields[CORRECTNESS.name] = pa.struct([SCHEMA.field(name) for name in VERIFIERS if name in row["correctness"]])
    return pa.schema(fields)


def check_schema(schema: pa.Schema, where: str, columns: Sequence[str], optional: Collection[str] = ()) -> None:
    """Checks that the columns to read exist, unless they may be missing, and are of the correct type.

    Args:
        schema: of the file.
        where: the file or dataset, for messages.
        columns: to read, of `SCHEMA`.
        optional: those of `columns` that may be missing, besides those with a default.

    Raises:
        UsageError: naming the column, its type and `where`.
    """
    for name in columns:
        path, wanted = PATHS[name], SCHEMA.field(name).type
        found = _type_at(schema, path)
        if found is None:
            if name in DEFAULTS or name in optional:
                continue
            remedy = f"its columns are {', '.join(schema.names)}"
            if name in VERIFIERS:
                remedy = "run verify.py first, which fills the verifier columns"
            raise UsageError(f"--input {where} has no column '{path}'; {remedy}")
        if not _holds(found, wanted):
            raise UsageError(f"--input {where}: column '{path}' is {found}; it must be {wanted}")


def normalised(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """`columns` of a checked batch with the types of `SCHEMA`; a missing one has its default, or null."""
    arrays = [_column(batch, name) for name in columns]
    return pa.record_batch(arrays, schema=pa.schema([SCHEMA.field(name) for name in columns]))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    type_ = SCHEMA.field(name).type
    if _type_at(batch.schema, PATHS[name]) is None:
        return pa.repeat(pa.scalar(DEFAULTS.get(name), type_), len(batch))
    column, _, field = PATHS[name].partition(".")
    # Unlike StructArray.field, struct_field makes a list null if its struct is.
    return (pc.struct_field(batch[column], field) if field else batch[column]).cast(type_)


def _type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """The type of a column, or of a field of a struct column; None if it does not exist."""
    column, _, field = path.partition(".")
    if column not in schema.names:
        return None
    found = schema.field(column).type
    if not field:
        return found
    return found.field(field).type if pa.types.is_struct(found) and found.get_field_index(field) >= 0 else None


def _holds(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of type `found` holds what `wanted` does, in whatever encoding."""
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return pa.types.is_null(found) or (is_list and _holds(found.value_type, wanted.value_type))
    if pa.types.is_dictionary(found):
        found = found.value_type
    text = (pa.string(), pa.large_string(), pa.string_view())
    return pa.types.is_null(found) or found in (text if wanted == pa.string() else (wanted,))
