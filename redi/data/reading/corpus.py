"""Opens a raw corpus of generations, in the schema of open-r1/OpenR1-Math-Raw, to be read once in small batches.

One pass is enough for decisions and texts. A parquet reader cannot count a row's generations without decoding their
text, so a separate pass for the decisions would decode everything twice.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from redi.data.reading import parquet, text_files
from redi.data.reading.data_files import data_files, kind_of
from redi.data.reading.schema import DEFAULTS, FLAT, SELECTION, check_schema, normalised, path_of, top_level
from redi.runs.errors import UsageError
from redi.runs.files import is_hub_id

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read once.

    Attributes:
        num_rows: rows in all its files, known before the first is read.
        batches: record batches of the requested columns, typed as in `schema.SCHEMA`, and `original_index`
            (int64), which counts the rows of the corpus from 0; in the order of the corpus. A verifier's list is null
            if the `correctness` struct is.
    """

    num_rows: int
    batches: Iterator[pa.RecordBatch]


def open_corpus(source: str, columns: Sequence[str] = SELECTION, optional: Collection[str] = ()) -> Corpus:
    """Opens a file or a folder (`redi.data.reading.data_files.data_files`) or a Hub dataset's `train`.

    A Hub dataset is read in place, as the batches are consumed: nothing is kept on disk, and no other columns are
    fetched. Parquet footers, and all rows of JSON and CSV, are checked here, so a missing column is found before any
    work is done. Without `problem_is_valid` or `source`, every row has the value in
    `redi.data.reading.schema.DEFAULTS`.

    Args:
        source: a path, or a Hub dataset as owner/name or, of another revision than the newest, owner/name@REVISION.
        columns: to read, of `redi.data.reading.schema.SCHEMA`.
        optional: those of `columns` that may be missing; they are then null in every row.

    Raises:
        UsageError: it does not exist, a file is unreadable, or a column is missing or of another type.
    """
    if not Path(source).exists():
        if not is_hub_id(source):
            raise UsageError(
                f"--input {source} does not exist; give a parquet, JSON or CSV file, a folder of them, or a Hub "
                "dataset as owner/name"
            )
        return _open_hub(source, columns, optional)
    files = data_files(Path(source))
    if kind_of(files[0]) == "parquet":
        return _open_parquet(files, list(map(parquet.footer, files)), columns, optional)
    names = top_level(columns)
    schema, num_rows, _ = text_files.infer_schema(files, names)
    if num_rows:
        _check(schema, source, columns, optional)
    schema = pa.schema([field for field in schema if field.name in names])
    batches = (batch for file in files for batch in text_files.read(file, schema, DEFAULTS))
    return Corpus(num_rows, _indexed(batches, num_rows, columns))


def pinned_input(source: str, revision: str | None) -> str:
    """Resolves `--input` and `--revision`: the path as it is, or a Hub dataset at one commit, `owner/name@COMMIT`.

    Raises:
        UsageError: a revision is given for a path, or the Hub does not know the dataset or the revision.
    """
    if not is_hub_id(source):
        if revision is not None:
            raise UsageError(f"--revision {revision} needs a Hub dataset (owner/name) as --input, not {source}")
        return source
    from redi.data.reading import hub  # its client takes half a second to import; a local corpus does not need it

    name, _, named = source.partition("@")
    if named and revision is not None:
        raise UsageError(f"--revision {revision}: --input {source} names a revision too; give it once")
    return hub.pinned(name, revision or named or None)


def _check(schema: pa.Schema, where: str, columns: Sequence[str], optional: Collection[str]) -> None:
    check_schema(schema, where, columns, optional)
    for name in set(columns) & set(FLAT):
        if path_of(schema, name) == FLAT[name]:
            print(f"{where}: '{FLAT[name]}' is read as '{name}'", flush=True)


def _open_parquet(
    files: Sequence[str | Path],
    footers: Sequence[pq.FileMetaData],
    columns: Sequence[str],
    optional: Collection[str],
    remote: "AbstractFileSystem | None" = None,
) -> Corpus:
    paths = []
    for file, footer in zip(files, footers, strict=True):
        schema = footer.schema.to_arrow_schema()
        _check(schema, str(file), columns, optional)
        paths.append(_paths(schema, columns))
    num_rows = sum(footer.num_rows for footer in footers)
    read = (parquet.read_columns(file, names, remote) for file, names in zip(files, paths, strict=True))
    return Corpus(num_rows, _indexed((batch for of_file in read for batch in of_file), num_rows, columns))


def _paths(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    return [path for name in columns if (path := path_of(schema, name)) is not None]


def _open_hub(source: str, columns: Sequence[str], optional: Collection[str]) -> Corpus:
    from huggingface_hub import HfFileSystem

    from redi.data.reading import hub

    dataset = pinned_input(source, None)
    files, remote = hub.train_files(dataset), HfFileSystem()
    with hub.hub_errors(dataset), ThreadPoolExecutor(8) as threads:
        footers = list(threads.map(lambda file: parquet.footer(file, remote), files))
    corpus = _open_parquet(files, footers, columns, optional, remote)
    paths = _paths(footers[0].schema.to_arrow_schema(), columns)
    wanted = sum(parquet.column_bytes(footer, paths)[0] for footer in footers)
    stored = sum(parquet.column_bytes(footer)[0] for footer in footers)
    print(
        f"{dataset}: {corpus.num_rows:,} rows in {len(files)} files; {wanted / 1e6:,.1f} of their "
        f"{stored / 1e6:,.1f} MB will be downloaded, none of it kept",
        flush=True,
    )
    return Corpus(corpus.num_rows, hub.guarded(dataset, corpus.batches))


def _indexed(batches: Iterable[pa.RecordBatch], num_rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    first = 0
    with tqdm(total=num_rows, desc="reading", unit=" rows", disable=None) as progress:
        for batch in batches:
            index = pa.array(np.arange(first, first + len(batch)), pa.int64())
            yield normalised(batch, columns).append_column("original_index", index)
            first += len(batch)
            progress.update(len(batch))
