"""Reading a raw corpus of graded generations, in the schema of open-r1/OpenR1-Math-Raw, a small batch at a time.

The corpus is read once: a parquet reader cannot count a row's generations without decoding their text, so a first pass
for the decisions and a second one for the text would decode everything twice.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from redi.runs import UsageError

# One row of OpenR1-Math-Raw is up to six generations of up to 60 kB, so a batch stays below 200 MB.
BATCH_ROWS = 512

VERIFIERS = ("llama_verification", "math_verify_reparsed_answer")
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("problem_is_valid", pa.string()),
        ("source", pa.string()),
        ("generations", pa.list_(pa.string())),
        *((name, pa.list_(pa.bool_())) for name in VERIFIERS),
        ("original_index", pa.int64()),
    ]
)
# Where each of them lies in the corpus: the verifiers' lists are fields of the struct `correctness`.
COLUMNS = {name: f"correctness.{name}" if name in VERIFIERS else name for name in SCHEMA.names[:-1]}


@dataclass(frozen=True)
class Corpus:
    """A corpus that is ready to be read, once.

    Attributes:
        num_rows: rows in all its files, known before the first is read.
        batches: record batches of `SCHEMA`, in the order of the corpus; `original_index` counts its rows from 0. A
            verifier's list is null where the whole `correctness` struct is.
    """

    num_rows: int
    batches: Iterator[pa.RecordBatch]


def open_corpus(source: str) -> Corpus:
    """Opens a parquet file, a folder of parquet files (read in the order of their names) or a Hub dataset's `train`.

    Only footers are read here, so a missing column is found before any work is done.

    Raises:
        UsageError: nothing is there, a file is not readable parquet, or a column is missing or of another type.
    """
    if Path(source).exists():
        files = _parquet_files(Path(source))
        sizes = [_checked_num_rows(file) for file in files]
        batches = _file_batches(files, sum(sizes))
        return Corpus(sum(sizes), _normalised(batches))
    # "traces/raw.parquet" would pass for a Hub id, but nobody means one by it.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.endswith(".parquet"):
        raise UsageError(
            f"--input {source} does not exist; give a parquet file, a folder of them, or a Hub dataset as owner/name"
        )
    return _open_hub(source)


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.glob("*.parquet") if not file.name.startswith("."))
    if not files:
        raise UsageError(f"--input {path} holds no .parquet files; give the folder that they lie in, or one file")
    return files


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"--input: cannot read {file} as parquet: {error}; fetch or write it again") from error


def _open_parquet(file: Path) -> pq.ParquetFile:
    # Buffered reads keep memory to the batch in hand even where a whole corpus is a single row group.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)


def _checked_num_rows(file: Path) -> int:
    with _reading(file), _open_parquet(file) as reader:
        check_schema(reader.schema_arrow, str(file))
        return reader.metadata.num_rows


def _file_batches(files: list[Path], num_rows: int) -> Iterator[pa.RecordBatch]:
    with tqdm(total=num_rows, desc="reading", unit=" rows", disable=None) as progress:
        for file in files:
            with _reading(file), _open_parquet(file) as reader:
                for batch in reader.iter_batches(BATCH_ROWS, columns=list(COLUMNS.values())):
                    yield batch
                    progress.update(len(batch))


def _open_hub(name: str) -> Corpus:
    from datasets import load_dataset  # takes seconds to import, and a local corpus does without

    try:
        dataset = load_dataset(name, split="train")
    except (OSError, ValueError) as error:
        raise UsageError(f"--input {name} is no local path, and loading it from the Hub failed: {error}") from error
    check_schema(dataset.features.arrow_schema, name)
    tables = dataset.select_columns([*SCHEMA.names[:4], "correctness"]).with_format("arrow").iter(BATCH_ROWS)
    return Corpus(len(dataset), _normalised(batch for table in tables for batch in table.to_batches()))


def check_schema(schema: pa.Schema, where: str) -> None:
    """Checks that every column that the selection reads is there, and of its type.

    Raises:
        UsageError: naming the column, its type and `where`, the file or dataset it was looked for in.
    """
    for name, path in COLUMNS.items():
        fields = schema
        for part in path.split("."):
            if part not in fields.names:
                raise UsageError(f"--input {where} has no column '{path}'; its columns are {', '.join(schema.names)}")
            found = fields.field(part).type
            fields = found if pa.types.is_struct(found) else pa.schema([])
        wanted = SCHEMA.field(name).type
        if not _holds(found, wanted):
            raise UsageError(f"--input {where}: column '{path}' is {found}, it must be {wanted}")


def _holds(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of type `found` holds what `wanted` does, however it is encoded."""
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return pa.types.is_null(found) or (is_list and _holds(found.value_type, wanted.value_type))
    if pa.types.is_dictionary(found):
        found = found.value_type
    text = (pa.string(), pa.large_string(), pa.string_view())
    return pa.types.is_null(found) or found in (text if wanted == pa.string() else (wanted,))


def _normalised(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Brings batches of any of the encodings that `_holds` accepts to `SCHEMA`."""
    first = 0
    for batch in batches:
        columns = [batch[name] for name in SCHEMA.names[:4]]
        # Unlike StructArray.field, struct_field makes the lists null where the struct itself is.
        columns += [pc.struct_field(batch["correctness"], name) for name in VERIFIERS]
        columns = [column.cast(type_) for column, type_ in zip(columns, SCHEMA.types[:-1], strict=True)]
        columns.append(pa.array(np.arange(first, first + len(batch))))
        yield pa.record_batch(columns, schema=SCHEMA)
        first += len(batch)
