"""Streaming chosen columns of parquet files in batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from redi.runs import UsageError

# One row of OpenR1-Math-Raw is up to six generations of up to 60 kB, so a batch stays below 200 MB.
BATCH_ROWS = 512


def schema_of(file: Path) -> pa.Schema:
    """The columns of a file; a `UsageError` where it is no readable parquet."""
    with _reading(file), _open(file) as reader:
        return reader.schema_arrow


def count_rows(file: Path) -> int:
    """The rows of a file, from its footer."""
    with _reading(file), _open(file) as reader:
        return reader.metadata.num_rows


def read(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file with those of `columns` (`struct.field` for one field) that it has.

    Raises:
        UsageError: a page is damaged.
    """
    with _reading(file), _open(file) as reader:
        yield from reader.iter_batches(BATCH_ROWS, columns=list(columns))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"--input: cannot read {file} as parquet: {error}; fetch or write it again") from error


def _open(file: Path) -> pq.ParquetFile:
    # Buffered reads keep memory to the batch in hand even where a whole corpus is a single row group.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
