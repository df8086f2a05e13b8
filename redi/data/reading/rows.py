"""Opens parquet, JSON or CSV with all or some columns, and raw corpora with the columns of `schema.SCHEMA`."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from fsspec import AbstractFileSystem
from tqdm import tqdm

from redi.data.reading import parquet, text_files
from redi.data.reading.data_files import data_files, kind_of
from redi.data.reading.schema import DEFAULTS, FLAT, SELECTION, check_schema, column_of, path_of, top_level
from redi.runs.errors import UsageError
from redi.runs.files import is_hub_id


@dataclass(frozen=True)
class Rows:
    """Files of one schema, which may be read any number of times."""

    source: str  # the file, folder or dataset, for messages
    files: Sequence[str | Path]
    schema: pa.Schema  # of all files, of plain types (`parquet.plain_type`)
    num_rows: int
    number_answers: int = 0  # answers that are numbers, and are read as text
    # Column -> its value in a file, or a row of JSON, that lacks it; null for other columns.
    defaults: Mapping[str, str | None] = field(default_factory=dict)
    remote: AbstractFileSystem | None = None  # the file system of the files, if not the local one

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order, a few hundred at a time, with some or all of the columns."""
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        with tqdm(total=self.num_rows, desc="reading", unit=" rows", disable=None) as progress:
            for file in self.files:
                if self.remote is not None or kind_of(file) == "parquet":
                    read = parquet.read(file, schema, self.defaults, self.remote)
                else:
                    read = text_files.read(file, schema, self.defaults)
                for batch in read:
                    yield batch
                    progress.update(len(batch))


def open_rows(
    source: str, columns: Collection[str] | None = None, defaults: Mapping[str, str | None] | None = None
) -> Rows:
    """Opens a file, or the files of a folder (`redi.data.reading.data_files.data_files`).

    Parquet footers, and all rows of JSON and CSV, are checked here. Parquet shards may differ in the order of their
    columns and in how a type is stored; `defaults` may be missing in some. The type of columns outside `columns`, all
    by default, is null. A missing or unreadable file, and files of different columns, are `UsageError`s.
    """
    path, defaults = Path(source), defaults or {}
    if not path.exists():
        raise UsageError(f"--input {source} does not exist; give a file, a folder or, for a build, a Hub dataset")
    files = data_files(path)
    if kind_of(files[0]) == "parquet":
        found = parquet.infer_schema(files, parquet.footers(files), columns, defaults)
    else:
        found = text_files.infer_schema(files, columns)
    rows = Rows(source, files, *found, defaults)
    if rows.number_answers:
        print(f"{source}: {rows.number_answers:,} answers are numbers, and are read as text", flush=True)
    return rows


class Corpus(NamedTuple):
    """A raw corpus, which can be read once: columns of `schema.SCHEMA`, and `original_index` (int64)."""

    num_rows: int
    batches: Iterator[pa.RecordBatch]


def open_corpus(source: str, columns: Sequence[str] = SELECTION) -> Corpus:
    """Opens a raw corpus: a file, a folder or the `train` split of a Hub dataset (owner/name or owner/name@REVISION).

    A Hub dataset is read in place, as the batches are consumed: nothing is kept on disk, and no other columns are
    fetched. Columns of `schema.DEFAULTS` may be missing. `original_index` counts the rows from 0.

    Raises:
        UsageError: as `open_rows`; or a column is missing or of another type.
    """
    wanted, errors = top_level(columns), nullcontext()
    if is_hub_id(source):
        from redi.data.reading import hub

        rows = hub.open_hub(pinned_input(source, None), wanted, DEFAULTS)
        errors = hub.hub_errors(rows.source)  # the connection may break between two batches
    else:
        rows = open_rows(source, wanted, DEFAULTS)
    if rows.schema.names or rows.num_rows:  # a file without rows of JSON has no columns
        check_schema(rows.schema, rows.source, columns)
    for name in set(columns) & set(FLAT):
        if path_of(rows.schema, name) == FLAT[name]:
            print(f"{rows.source}: '{FLAT[name]}' is read as '{name}'", flush=True)

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        with errors:
            for batch in rows.batches([name for name in rows.schema.names if name in wanted]):
                index = {"original_index": pa.array(np.arange(first, first + len(batch)), pa.int64())}
                yield pa.record_batch({name: column_of(batch, name) for name in columns} | index)
                first += len(batch)

    return Corpus(rows.num_rows, batches())


def pinned_input(source: str, revision: str | None) -> str:
    """Resolves `--input` and `--revision`: the path as it is, or a Hub dataset at one commit, `owner/name@COMMIT`."""
    if not is_hub_id(source):
        if revision is not None:
            raise UsageError(f"--revision {revision} needs a Hub dataset (owner/name) as --input, not {source}")
        return source
    from redi.data.reading import hub  # its client takes half a second to import; a local corpus does not need it

    name, _, named = source.partition("@")
    if named and revision is not None:
        raise UsageError(f"--revision {revision}: --input {source} names a revision too; give it once")
    return hub.pinned(name, revision or named or None)
