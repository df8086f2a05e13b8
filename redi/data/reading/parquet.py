"""Streams chosen columns of parquet files, local or remote, in batches of bounded size."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from redi.data.reading.text_files import NUMBER_AS_TEXT
from redi.runs.errors import UsageError, usage_errors

# One row of OpenR1-Math-Raw is up to six generations of up to 60 kB. Rows are decoded this many at a time, or fewer
# if they are larger: 512 rows of 15 kB a generation are 46 MB.
BATCH_ROWS = 512
BATCH_BYTES = 64_000_000
# Read at a time from one column. Each remote read is a request, so it is larger.
LOCAL_READ_BYTES = 1 << 20
REMOTE_READ_BYTES = 8 << 20

File = str | Path


def footers(files: Sequence[File], remote: AbstractFileSystem | None = None) -> list[pq.FileMetaData]:
    """The footers of files; a `UsageError` for one that is not parquet, or has two columns of the same name."""

    def footer(file: File) -> pq.FileMetaData:
        with _opened(file, remote) as reader:
            names = reader.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UsageError(f"--input {file}: two columns are named '{twice}'; rename or remove one")
            return reader.metadata

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(footer, files))


def infer_schema(
    files: Sequence[File],
    footers: Sequence[pq.FileMetaData],
    columns: Collection[str] | None,
    optional: Collection[str],
) -> tuple[pa.Schema, int, int]:
    """As `text_files.infer_schema`; two files may only differ in columns that are `optional`."""
    originals = [footer.schema.to_arrow_schema() for footer in footers]
    common = _plain(originals[0], columns)
    for file, original in zip(files[1:], originals[1:], strict=True):
        schema, first = _plain(original, columns), Path(files[0]).name
        different = (set(schema.names) ^ set(common.names)) - set(optional)
        if different if columns is None else different & set(columns):
            raise UsageError(f"--input {file} has other columns than {first}; give one of the files alone")
        message = f"--input {file} does not fit {first}; give one of them alone: "
        with usage_errors(lambda error, message=message: f"{message}{error}", pa.ArrowException):
            common = pa.unify_schemas([common, schema], promote_options="permissive")
    # The metadata that `datasets` writes states types, which no longer hold if one has changed.
    common = common.with_metadata(originals[0].metadata if common.equals(originals[0]) else None)
    num_numbers, is_read = 0, NUMBER_AS_TEXT in (common.names if columns is None else columns)
    for file, original in zip(files, originals, strict=True):
        if is_read and NUMBER_AS_TEXT in original.names and _is_number(original.field(NUMBER_AS_TEXT).type):
            num_numbers += sum(len(batch) - batch[0].null_count for batch in _batches(file, [NUMBER_AS_TEXT]))
    return common, sum(footer.num_rows for footer in footers), num_numbers


def _plain(schema: pa.Schema, columns: Collection[str] | None) -> pa.Schema:
    wanted = schema.names if columns is None else columns
    fields = {field.name: plain_type(field.type) if field.name in wanted else pa.null() for field in schema}
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
        return pa.struct([(field.name, plain_type(field.type)) for field in type_])
    return type_


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def column_bytes(metadata: pq.FileMetaData, columns: Collection[str] | None = None) -> tuple[int, int]:
    """The bytes of a file's columns, all or some: as stored, and decompressed."""
    stored = decompressed = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if columns is None or chunk.path_in_schema.split(".")[0] in columns:
                stored += chunk.total_compressed_size
                decompressed += chunk.total_uncompressed_size
    return stored, decompressed


def read(
    file: File, schema: pa.Schema, defaults: Mapping[str, str | None], remote: AbstractFileSystem | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the rows with the columns of `schema`, cast to its types; nothing else is read, or downloaded."""
    with usage_errors(lambda error: f"--input {file}: {error}", pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for batch in _batches(file, schema.names, remote):
            arrays = [
                batch[name].cast(type_)
                if name in batch.schema.names
                else pa.repeat(pa.scalar(defaults.get(name), type_), len(batch))
                for name, type_ in zip(schema.names, schema.types, strict=True)
            ]
            yield pa.record_batch(arrays, schema=schema)


def _batches(file: File, columns: Sequence[str], remote: AbstractFileSystem | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, with those of `columns` that it has."""
    with _opened(file, remote) as reader:
        row_bytes = column_bytes(reader.metadata, columns)[1] / max(1, reader.metadata.num_rows)
        rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1, row_bytes))))
        yield from reader.iter_batches(rows, columns=[n for n in columns if n in reader.schema_arrow.names])


@contextmanager
def _opened(file: File, remote: AbstractFileSystem | None) -> Iterator[pq.ParquetFile]:
    """Opens a file for buffered reads: memory holds the current batch even if a row group is the complete corpus."""
    options = {"pre_buffer": False, "page_checksum_verification": True}
    message = f"--input: cannot read {file} as parquet: "
    errors = usage_errors(lambda error: f"{message}{error}; fetch or write it again", pa.ArrowException, OSError)
    with errors, ExitStack() as stack:
        if remote is None:
            yield stack.enter_context(pq.ParquetFile(file, buffer_size=LOCAL_READ_BYTES, **options))
        else:
            # Columns are read in turns, so a cache around the last read would fetch most bytes several times.
            stream = stack.enter_context(remote.open(file, "rb", cache_type="none"))
            yield pq.ParquetFile(stream, buffer_size=REMOTE_READ_BYTES, **options)
