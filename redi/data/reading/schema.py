"""The columns of a raw corpus, those of open-r1/OpenR1-Math-Raw: names, types, defaults and checks."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from redi.runs.errors import UsageError

VERIFIERS = ("llama_verification", "math_verify_reparsed_answer")
SCHEMA = pa.schema(
    dict.fromkeys(("problem", "answer", "problem_is_valid", "source"), pa.string())
    | dict.fromkeys(("generations", "finish_reasons"), pa.list_(pa.string()))
    | dict.fromkeys(VERIFIERS, pa.list_(pa.bool_()))
)
# For a corpus without the column: whoever collects traces for problems wants to use them.
DEFAULTS = {"problem_is_valid": "Yes", "source": "unknown", "finish_reasons": None}
# What the selection reads.
SELECTION = ("problem", "problem_is_valid", "source", "generations", "finish_reasons", *VERIFIERS)

# The verifiers' lists are fields of the struct `correctness` or, in open-r1/OpenR1-Math-220k, these columns.
CORRECTNESS = "correctness"
FLAT = {"llama_verification": "correctness_llama", "math_verify_reparsed_answer": "correctness_math_verify"}


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The type of each column, or of each field of a struct column: `struct.field`."""
    return {field.name: field.type for field in schema.empty_table().flatten().schema}


def path_of(schema: pa.Schema, name: str) -> str | None:
    """Where a file holds a column of `SCHEMA`: its name, or `struct.field`; None if it does not."""
    types, candidates = _types(schema), [f"{CORRECTNESS}.{name}", FLAT[name]] if name in VERIFIERS else [name]
    if name in VERIFIERS and types.get(CORRECTNESS) == pa.null():  # in JSON, which states no types
        candidates.append(CORRECTNESS)
    return next((path for path in candidates if path in types), None)


def top_level(columns: Sequence[str]) -> set[str]:
    """The names of the columns that may hold `columns`."""
    return {FLAT.get(name, name) for name in columns} | ({CORRECTNESS} if set(columns) & set(VERIFIERS) else set())


def check_schema(schema: pa.Schema, where: str, columns: Sequence[str], optional: Collection[str] = ()) -> None:
    """Checks that the columns to read are of the correct type, and exist unless they have a default or are `optional`.

    The schema has plain types. A `UsageError` names the column, its type and `where`: the file or dataset.
    """
    types = _types(schema)
    if set(columns) & set(VERIFIERS) and (found := types.get(CORRECTNESS, pa.null())) != pa.null():
        raise UsageError(f"--input {where}: column '{CORRECTNESS}' is {found}; it must be a struct of verifier lists")
    for name in columns:
        path, wanted = path_of(schema, name), SCHEMA.field(name).type
        if path is not None and not _holds(types[path], wanted):
            raise UsageError(f"--input {where}: column '{path}' is {types[path]}; it must be {wanted}")
        if path is None and name in VERIFIERS and name not in optional:
            remedy = "run verify.py first, which fills the verifier columns"
            raise UsageError(f"--input {where} has no column '{CORRECTNESS}.{name}'; {remedy}")
        if path is None and name not in DEFAULTS and name not in optional:
            raise UsageError(f"--input {where} has no column '{name}'; its columns are {', '.join(schema.names)}")


def column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column of `SCHEMA`, of its type there; if the batch does not hold it, its default, or null."""
    path, type_ = path_of(batch.schema, name), SCHEMA.field(name).type
    if path is None:
        return pa.repeat(pa.scalar(DEFAULTS.get(name), type_), len(batch))
    column, _, field = path.partition(".")
    # Unlike StructArray.field, struct_field makes a list null if its struct is.
    return (pc.struct_field(batch[column], field) if field else batch[column]).cast(type_)


def _holds(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _holds(found.value_type, wanted.value_type)
    return found in (wanted, pa.null())
