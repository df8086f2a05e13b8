"""Reading a raw corpus of generations, in the schema of open-r1/OpenR1-Math-Raw, a small batch at a time.

The corpus is read once: a parquet reader cannot count a row's generations without decoding their text, so a first pass
for the decisions and a second one for the text would decode everything twice.
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

from redi.data.reading import jsonl, parquet
from redi.data.reading.schema import PATHS, SELECTION, check_schema, normalised
from redi.runs.errors import UsageError
from redi.runs.hub import is_hub_id

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class Corpus:
    """A corpus that is ready to be read, once.

    Attributes:
        num_rows: rows in all its files, known before the first is read.
        batches: record batches of the columns asked for, typed as in `schema.SCHEMA`, and `original_index`
            (int64), which counts the rows of the corpus from 0; in the order of the corpus. A verifier's list is null
            where the whole `correctness` struct is.
    """

    num_rows: int
    batches: Iterator[pa.RecordBatch]


def open_corpus(source: str, columns: Sequence[str] = SELECTION, optional: Collection[str] = ()) -> Corpus:
    """Opens a file or folder of parquet or JSONL (files in the order of their names) or a Hub dataset's `train`.

    A Hub dataset is read in place, as the batches are asked for: nothing of it is kept on disk, nor are other columns
    fetched. Parquet footers and the first lines of JSONL files are read here, so a missing column is found before any
    work is done. A corpus without `problem_is_valid` or `source` is read as if every row had the one in
    `redi.data.reading.schema.DEFAULTS`.

    Args:
        source: a path, or a Hub dataset as owner/name or, of another revision than the newest, owner/name@REVISION.
        columns: of `redi.data.reading.schema.SCHEMA`, what to read.
        optional: those of `columns` that may be missing; they are then null in every row.

    Raises:
        UsageError: nothing is there, a file is unreadable, or a column is missing or of another type.
    """
    if Path(source).exists():
        return _open_local(Path(source), columns, optional)
    if not is_hub_id(source):
        raise UsageError(
            f"--input {source} does not exist; give a parquet or JSONL file, a folder of them, or a Hub dataset as "
            "owner/name"
        )
    return _open_hub(source, columns, optional)


def pinned_input(source: str, revision: str | None) -> str:
    """What `--input` and `--revision` name: the path as it is, or a Hub dataset at one commit, `owner/name@COMMIT`.

    Raises:
        UsageError: a revision is given for a path, or the Hub does not know the dataset or the revision.
    """
    if not is_hub_id(source):
        if revision is not None:
            raise UsageError(f"--revision {revision} needs a Hub dataset (owner/name) as --input, not {source}")
        return source
    from redi.data.reading import hub  # its client takes half a second to import, and a local corpus does without

    name, _, named = source.partition("@")
    if named and revision is not None:
        raise UsageError(f"--revision {revision}: --input {source} names a revision too; give it once")
    return hub.pinned(name, revision or named or None)


def _open_local(path: Path, columns: Sequence[str], optional: Collection[str]) -> Corpus:
    files = data_files(path)
    if files[0].suffix != ".jsonl":
        return _open_parquet(files, list(map(parquet.footer, files)), columns, optional)
    for file in files:
        check_schema(jsonl.schema_of(file), str(file), columns, optional)
    num_rows = sum(map(jsonl.count_rows, files))
    paths = [PATHS[name] for name in columns]
    batches = (batch for file in files for batch in jsonl.read(file, paths))
    return Corpus(num_rows, _indexed(batches, num_rows, columns))


def data_files(path: Path) -> list[Path]:
    """A file itself, or the parquet or the JSONL files of a folder in the order of their names."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".parquet", ".jsonl") and file.name[0] != ".")
    if not files:
        raise UsageError(f"--input {path} holds no .parquet or .jsonl files; give the folder that they lie in")
    if len({file.suffix for file in files}) > 1:
        raise UsageError(
            f"--input {path} holds both .parquet and .jsonl files; give a folder of one kind, or one file"
        )
    return files


def _open_parquet(
    files: Sequence[str | Path],
    footers: Sequence[pq.FileMetaData],
    columns: Sequence[str],
    optional: Collection[str],
    remote: "AbstractFileSystem | None" = None,
) -> Corpus:
    for file, footer in zip(files, footers, strict=True):
        check_schema(footer.schema.to_arrow_schema(), str(file), columns, optional)
    num_rows = sum(footer.num_rows for footer in footers)
    paths = [PATHS[name] for name in columns]
    batches = (batch for file in files for batch in parquet.read(file, paths, remote))
    return Corpus(num_rows, _indexed(batches, num_rows, columns))


def _open_hub(source: str, columns: Sequence[str], optional: Collection[str]) -> Corpus:
    from redi.data.reading import hub

    dataset = pinned_input(source, None)
    files, remote = hub.train_files(dataset), hub.file_system()
    with hub.talking_to_hub(dataset), ThreadPoolExecutor(8) as threads:
        footers = list(threads.map(lambda file: parquet.footer(file, remote), files))
    corpus = _open_parquet(files, footers, columns, optional, remote)
    paths = [PATHS[name] for name in columns]
    wanted = sum(parquet.column_bytes(footer, paths)[0] for footer in footers)
    stored = sum(parquet.column_bytes(footer)[0] for footer in footers)
    print(
        f"{dataset}: {corpus.num_rows:,} rows in {len(files)} files; {wanted / 1e6:,.1f} of their "
        f"{stored / 1e6:,.1f} MB will be downloaded, and not kept",
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
