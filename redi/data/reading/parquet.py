"""Streams chosen columns of parquet files, local or remote, in batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from redi.runs.errors import UsageError, usage_errors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# One row of OpenR1-Math-Raw is up to six generations of up to 60 kB. Rows are decoded this many at a time, or fewer
# if they are larger: 512 rows of 15 kB a generation are 46 MB.
BATCH_ROWS = 512
BATCH_BYTES = 64_000_000
# Read at a time from one column. Each remote read is a request, so it is larger.
LOCAL_READ_BYTES = 1 << 20
REMOTE_READ_BYTES = 8 << 20

File = str | PathLike[str]


def footer(file: File, remote: "AbstractFileSystem | None" = None) -> pq.FileMetaData:
    """The footer of a file: its schema, rows and sizes.

    Raises:
        UsageError: the file is not readable parquet, or two of its columns have the same name.
    """
    with _opened(file, remote) as reader:
        names = reader.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"--input {file}: two columns are named '{twice}'; rename or remove one")
        return reader.metadata


def column_bytes(metadata: pq.FileMetaData, columns: Sequence[str] | None = None) -> tuple[int, int]:
    """The bytes of a file's columns, all or some (`struct.field` for one field): as stored, and decompressed."""
    stored = decompressed = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if columns is None or any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns):
                stored += chunk.total_compressed_size
                decompressed += chunk.total_uncompressed_size
    return stored, decompressed


def read(file: File, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a local file with the columns of `schema`, cast to its types.

    Raises:
        UsageError: as `read_columns`; or a value does not fit.
    """
    with usage_errors(lambda error: f"--input {file}: {error}", pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for batch in read_columns(file, schema.names):
            yield pa.record_batch([batch[field.name].cast(field.type) for field in schema], schema=schema)


def read_columns(
    file: File, columns: Sequence[str], remote: "AbstractFileSystem | None" = None
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file, with those of `columns` (`struct.field` for one field) that it has.

    Args:
        file: its path.
        columns: nothing else is read, or downloaded.
        remote: the file system of the file, if not the local one.

    Raises:
        UsageError: a page is damaged, or cannot be fetched.
    """
    with _opened(file, remote) as reader:
        row_bytes = column_bytes(reader.metadata, columns)[1] / max(1, reader.metadata.num_rows)
        rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1, row_bytes))))
        yield from reader.iter_batches(rows, columns=list(columns))


@contextmanager
def _opened(file: File, remote: "AbstractFileSystem | None") -> Iterator[pq.ParquetFile]:
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
