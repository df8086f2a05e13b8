"""Reading a raw corpus of generations, in the schema of open-r1/OpenR1-Math-Raw, a small batch at a time.

The corpus is read once: a parquet reader cannot count a row's generations without decoding their text, so a first pass
for the decisions and a second one for the text would decode everything twice.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from redi.data import jsonl, parquet
from redi.data.schema import PATHS, SELECTION, check_schema, normalised
from redi.runs import UsageError


@dataclass(frozen=True)
class Corpus:
    """A corpus that is ready to be read, once.

    Attributes:
        num_rows: rows in all its files, known before the first is read.
        batches: record batches of the columns asked for, typed as in `redi.data.schema.SCHEMA`, and `original_index`
            (int64), which counts the rows of the corpus from 0; in the order of the corpus. A verifier's list is null
            where the whole `correctness` struct is.
    """

    num_rows: int
    batches: Iterator[pa.RecordBatch]


def open_corpus(source: str, columns: Sequence[str] = SELECTION, optional: Collection[str] = ()) -> Corpus:
    """Opens a file or folder of parquet or JSONL (files in the order of their names) or a Hub dataset's `train`.

    Parquet footers and the first lines of JSONL files are read here, so a missing column is found before any work is
    done. A corpus without `problem_is_valid` or `source` is read as if every row had the one in
    `redi.data.schema.DEFAULTS`.

    Args:
        source: a path, or a Hub dataset as owner/name.
        columns: of `redi.data.schema.SCHEMA`, what to read.
        optional: those of `columns` that may be missing; they are then null in every row.

    Raises:
        UsageError: nothing is there, a file is unreadable, or a column is missing or of another type.
    """
    if Path(source).exists():
        return _open_local(Path(source), columns, optional)
    # "traces/raw.parquet" would pass for a Hub id, but nobody means one by it.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.endswith((".parquet", ".jsonl")):
        raise UsageError(
            f"--input {source} does not exist; give a parquet or JSONL file, a folder of them, or a Hub dataset as "
            "owner/name"
        )
    return _open_hub(source, columns, optional)


def _open_local(path: Path, columns: Sequence[str], optional: Collection[str]) -> Corpus:
    files = data_files(path)
    format_ = jsonl if files[0].suffix == ".jsonl" else parquet
    for file in files:
        check_schema(format_.schema_of(file), str(file), columns, optional)
    num_rows = sum(format_.count_rows(file) for file in files)
    paths = [PATHS[name] for name in columns]
    batches = (batch for file in files for batch in format_.read(file, paths))
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


def _open_hub(name: str, columns: Sequence[str], optional: Collection[str]) -> Corpus:
    from datasets import load_dataset  # takes seconds to import, and a local corpus does without

    try:
        dataset = load_dataset(name, split="train")
    except (OSError, ValueError) as error:
        raise UsageError(f"--input {name} is no local path, and loading it from the Hub failed: {error}") from error
    schema = dataset.features.arrow_schema
    check_schema(schema, name, columns, optional)
    wanted = {PATHS[name].split(".")[0] for name in columns} & set(schema.names)
    tables = dataset.select_columns(sorted(wanted)).with_format("arrow").iter(parquet.BATCH_ROWS)
    batches = (batch for table in tables for batch in table.to_batches())
    return Corpus(len(dataset), _indexed(batches, len(dataset), columns))


def _indexed(batches: Iterable[pa.RecordBatch], num_rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    first = 0
    with tqdm(total=num_rows, desc="reading", unit=" rows", disable=None) as progress:
        for batch in batches:
            index = pa.array(np.arange(first, first + len(batch)), pa.int64())
            yield normalised(batch, columns).append_column("original_index", index)
            first += len(batch)
            progress.update(len(batch))
