"""Puts selected rows into shuffled order on disk, and writes them as parquet shards, in bounded memory."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from redi.data.streams import chunks

# Rows of the corpus per bucket. Memory holds the pairs of one bucket: about 100 MB at 15 kB a trace.
BUCKET_ROWS = 4096
SCATTER_BYTES = 64_000_000  # selected rows collected before they are written to the buckets
TAKE_BYTES = 1_000_000_000  # sorted at a time: Arrow's offsets into a text column end at 2^31
SHARD_BYTES = 500_000_000  # of uncompressed Arrow data; `datasets` cuts its shards at the same size
ROW_GROUP_ROWS = 1000


def shuffled_places(num_rows: int, seed: int) -> np.ndarray:
    """The place of each row of a corpus in the order of `datasets.Dataset.shuffle(seed)`, `(num_rows,)`."""
    return np.argsort(np.random.default_rng(seed).permutation(num_rows))


def ordered(batches: Iterable[pa.RecordBatch], place: np.ndarray, folder: Path) -> Iterator[pa.Table]:
    """Yields the rows of `batches` by their place, a bucket at a time.

    Each row goes directly to the bucket file of its stretch of the order, in `folder`. A bucket is small enough to be
    sorted in memory. All file access is sequential.
    """
    files: dict[int, Path] = {}
    for several in chunks(batches, attrgetter("nbytes"), SCATTER_BYTES):
        batch = pa.concat_batches(several)
        batch = batch.take(pa.array(np.argsort(place[batch["original_index"]])))
        bucket_of = place[batch["original_index"]] // BUCKET_ROWS
        starts = np.flatnonzero(np.diff(bucket_of, prepend=-1))
        for start, end in pairwise([*starts, len(batch)]):
            path = files.setdefault(int(bucket_of[start]), folder / f"bucket-{bucket_of[start]}.arrow")
            with path.open("ab") as file:  # a large corpus has more buckets than a process may have open files
                file.write(batch.slice(start, end - start).serialize())
    for _, path in tqdm(sorted(files.items()), desc="writing", unit=" buckets", disable=None):
        parts = []
        with pa.OSFile(str(path)) as file:
            while file.tell() < file.size():
                parts.append(pa.ipc.read_record_batch(pa.ipc.read_message(file), batch.schema))
        path.unlink()
        table = pa.Table.from_batches(parts)
        places = place[table["original_index"]]
        for stretch in np.array_split(np.sort(places), 1 + table.nbytes // TAKE_BYTES):
            rows = table.filter(pa.array((places >= stretch[0]) & (places <= stretch[-1])))
            yield rows.take(pa.array(np.argsort(place[rows["original_index"]])))


def write_shards(tables: Iterable[pa.Table], folder: Path) -> dict[str, int]:
    """Writes tables of one schema, in order, as `train-00000-of-0000N.parquet`; returns the rows of each file."""
    num_rows: list[int] = []
    num_bytes, writer = SHARD_BYTES, None
    with ExitStack() as open_writers:
        for table in tables:
            for part in (table.slice(start, ROW_GROUP_ROWS) for start in range(0, len(table), ROW_GROUP_ROWS)):
                if num_bytes >= SHARD_BYTES:
                    open_writers.close()
                    path = folder / f"train-{len(num_rows):05d}.parquet"
                    # Traces do not repeat, so a dictionary of them would be built and discarded.
                    writer = pq.ParquetWriter(path, part.schema, use_dictionary=["source"])
                    open_writers.enter_context(writer)
                    num_rows.append(0)
                    num_bytes = 0
                writer.write_table(part)
                num_rows[-1] += len(part)
                num_bytes += part.nbytes
    names = [f"train-{shard:05d}-of-{len(num_rows):05d}.parquet" for shard in range(len(num_rows))]
    for shard, name in enumerate(names):
        (folder / f"train-{shard:05d}.parquet").rename(folder / name)
    return dict(zip(names, num_rows, strict=True))
