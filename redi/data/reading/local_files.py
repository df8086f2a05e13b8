"""Reads any local parquet or JSON lines with all their columns, for commands that pass on columns they do not know."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from redi.data.reading import jsonl, parquet
from redi.runs.errors import UsageError


@dataclass(frozen=True)
class Rows:
    """Files of one schema, which may be read any number of times.

    Attributes:
        source: the file or folder, for messages.
        files: in the order of their names.
        schema: of all files. For JSON lines it is inferred from every row; a key that a row lacks is null there.
        num_rows: in all files.
    """

    source: Path
    files: list[Path]
    schema: pa.Schema
    num_rows: int

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yields the rows in order, a few hundred at a time, with some or all of the columns."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        with tqdm(total=self.num_rows, desc="reading", unit=" rows", disable=None) as progress:
            for file in self.files:
                batches = jsonl.read(file, schema) if _is_jsonl(file) else parquet.read(file, schema.names)
                for batch in batches:
                    yield pa.record_batch([batch[name] for name in schema.names], schema=schema)
                    progress.update(len(batch))


def open_rows(source: str) -> Rows:
    """Opens a file or folder of parquet or JSON lines.

    Raises:
        UsageError: it does not exist, a file is unreadable, or two files have different columns.
    """
    path = Path(source)
    if not path.exists():
        raise UsageError(f"--input {source} does not exist; give a parquet or JSONL file, or a folder of them")
    files = data_files(path)
    if _is_jsonl(files[0]):
        return Rows(path, files, *jsonl.infer_schema(files))
    footers = list(map(parquet.footer, files))
    schemas = [footer.schema.to_arrow_schema() for footer in footers]
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise UsageError(
                f"--input {source}: {file.name} has other columns than {files[0].name}; give one of the files alone"
            )
    return Rows(path, files, schemas[0], sum(footer.num_rows for footer in footers))


def data_files(path: Path) -> list[Path]:
    """A file itself, or the parquet or the JSONL files of a folder in the order of their names.

    Raises:
        UsageError: the folder has no such files, or files of both kinds.
    """
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".parquet", ".jsonl") and file.name[0] != ".")
    if not files:
        raise UsageError(f"--input {path} holds no .parquet or .jsonl files; give the folder that holds them")
    if len(set(map(_is_jsonl, files))) > 1:
        raise UsageError(
            f"--input {path} holds both .parquet and .jsonl files; give a folder of one kind, or one file"
        )
    return files


def _is_jsonl(file: Path) -> bool:
    return file.suffix == ".jsonl"
