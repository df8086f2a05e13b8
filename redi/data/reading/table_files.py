"""Any rows, parquet or JSONL, with all their columns: for commands that pass on columns they know nothing of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from redi.data.reading import parquet
from redi.data.reading.corpus import data_files
from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl

JSONL_BATCH_ROWS = 512


@dataclass(frozen=True)
class Rows:
    """Files of one schema, which may be read any number of times.

    Attributes:
        source: the file or folder, for messages.
        files: in the order of their names.
        schema: of all files. That of JSONL is inferred from every row: null where a row lacks a key.
        num_rows: in all files.
    """

    source: Path
    files: list[Path]
    schema: pa.Schema
    num_rows: int

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order, some hundred at a time, with some or all of the columns."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        with tqdm(total=self.num_rows, desc="reading", unit=" rows", disable=None) as progress:
            for file in self.files:
                for batch in _read(file, schema):
                    yield pa.record_batch([batch[name] for name in schema.names], schema=schema)
                    progress.update(len(batch))


def open_rows(source: str) -> Rows:
    """Opens a file or folder of parquet or JSONL.

    Raises:
        UsageError: nothing is there, a file is unreadable, or two files have different columns.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"--input {source} does not exist; give a parquet or JSONL file, or a folder of them")
    files = data_files(path)
    if files[0].suffix == ".jsonl":
        return Rows(path, files, *_infer(files))
    schemas = [parquet.schema_of(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise UsageError(
                f"--input {source}: {file.name} has other columns than {files[0].name}; give one of the files alone"
            )
    return Rows(path, files, schemas[0], sum(map(parquet.count_rows, files)))


def _read(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if file.suffix != ".jsonl":
        yield from parquet.read(file, schema.names)
        return
    for rows in _jsonl_batches(file):
        yield pa.RecordBatch.from_pylist(rows, schema)


def _infer(files: list[Path]) -> tuple[pa.Schema, int]:
    schema, num_rows = pa.schema([]), 0
    for file in files:
        for rows in _jsonl_batches(file):
            num_rows += len(rows)
            try:
                found = pa.schema(list(pa.array(rows).type))
                schema = pa.unify_schemas([schema, found], promote_options="permissive")
            except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
                raise UsageError(f"--input {file}: a key has values of two types: {error}; mend the file") from error
    for field in schema:
        if _has_empty_struct(field.type):
            raise UsageError(
                f"--input {files[0].parent}: key '{field.name}' holds only empty objects, {{}}, which parquet cannot "
                "keep; remove it"
            )
    return schema, num_rows


def _has_empty_struct(type_: pa.DataType) -> bool:
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return pa.types.is_struct(type_) and not children or any(map(_has_empty_struct, children))


def _jsonl_batches(file: Path) -> Iterator[list[dict[str, Any]]]:
    rows = iter_jsonl(file, ())
    while batch := list(islice(rows, JSONL_BATCH_ROWS)):
        yield batch
