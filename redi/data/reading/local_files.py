"""Reads any local parquet, JSON or CSV with all columns, for commands that pass on columns they do not know."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from redi.data.reading import parquet, text_files
from redi.data.reading.data_files import data_files, kind_of
from redi.data.reading.text_files import NUMBER_AS_TEXT
from redi.runs.errors import UsageError, usage_errors


@dataclass(frozen=True)
class Rows:
    """Files of one schema, which may be read any number of times.

    Attributes:
        source: the file or folder, for messages.
        files: in the order of their names.
        schema: of all files, of plain types (`plain_type`). A key that a row of JSON lacks is null there.
        num_rows: in all files.
        number_answers: answers that are numbers, and are read as text.
    """

    source: Path
    files: list[Path]
    schema: pa.Schema
    num_rows: int
    number_answers: int

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order, a few hundred at a time, with some or all of the columns."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        read = parquet.read if kind_of(self.files[0]) == "parquet" else text_files.read
        with tqdm(total=self.num_rows, desc="reading", unit=" rows", disable=None) as progress:
            for batch in (batch for file in self.files for batch in read(file, schema)):
                yield batch
                progress.update(len(batch))


def open_rows(source: str) -> Rows:
    """Opens a file, or the files of a folder (`redi.data.reading.data_files.data_files`).

    Parquet shards may differ in the order of their columns and in how a type is stored.

    Raises:
        UsageError: it does not exist, a file is unreadable, or two files have different columns.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"--input {source} does not exist; give a parquet, JSON or CSV file, or a folder of them")
    files = data_files(path)
    if kind_of(files[0]) == "parquet":
        footers = list(map(parquet.footer, files))
        schema, num_rows = _common_schema(path, files, footers), sum(footer.num_rows for footer in footers)
        number_answers = sum(map(_number_answers, files, footers))
    else:
        schema, num_rows, number_answers = text_files.infer_schema(files)
    if number_answers:
        print(f"{source}: {number_answers:,} answers are numbers, and are read as text", flush=True)
    return Rows(path, files, schema, num_rows, number_answers)


def _common_schema(source: Path, files: list[Path], footers: list[pa.parquet.FileMetaData]) -> pa.Schema:
    original = footers[0].schema.to_arrow_schema()
    common = _plain(original)
    for file, footer in zip(files[1:], footers[1:], strict=True):
        schema = _plain(footer.schema.to_arrow_schema())
        if set(schema.names) != set(common.names):
            raise UsageError(
                f"--input {source}: {file.name} has other columns than {files[0].name}; give one of the files alone"
            )
        message = f"--input {source}: {file.name} does not fit {files[0].name}; give one of them alone: "
        with usage_errors(lambda error, message=message: f"{message}{error}", pa.ArrowException):
            common = pa.unify_schemas([common, schema], promote_options="permissive")
    # The metadata that `datasets` writes states types, which no longer hold if one has changed.
    return common.with_metadata(original.metadata if common.equals(original) else None)


def _plain(schema: pa.Schema) -> pa.Schema:
    fields = {field.name: plain_type(field.type) for field in schema}
    if _is_number(fields.get(NUMBER_AS_TEXT, pa.null())):
        fields[NUMBER_AS_TEXT] = pa.string()
    return pa.schema(fields)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the same values without views, dictionaries or 64-bit offsets, nullable throughout."""
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return pa.list_(plain_type(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(type_.field(i).name, plain_type(type_.field(i).type)) for i in range(type_.num_fields)])
    return type_


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def _number_answers(file: Path, footer: pa.parquet.FileMetaData) -> int:
    schema = footer.schema.to_arrow_schema()
    if NUMBER_AS_TEXT not in schema.names or not _is_number(schema.field(NUMBER_AS_TEXT).type):
        return 0
    column = pa.schema([schema.field(NUMBER_AS_TEXT)])
    return sum(len(batch) - batch[0].null_count for batch in parquet.read(file, column))
