"""Gives every pair the negative of another problem: a control of whether negatives must belong to their problem."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from redi.data.dataset_folder import is_complete, refuse_output_over_input, write_card_and_manifest
from redi.data.reading.local_files import open_rows
from redi.data.shuffle import write_shards
from redi.runs.errors import UsageError
from redi.runs.files import new_folder

SUMMARY = "Pairs in which every rejected trace answers the problem of another pair, each used once."

NEEDED = ("rejected", "uuid")
MOVED = ("rejected_gen_idx", "rejected_len")  # columns that belong to a negative


def shuffle_negatives(source: str, output: Path, *, seed: int = 42, overwrite: bool = False) -> str:
    """Writes the pairs of `source` with the negatives of other problems to `output`; returns what to print."""
    started = time.time()
    config, inputs = {"seed": seed}, {"pairs": source}
    refuse_output_over_input(output, inputs)
    if not overwrite and is_complete(output, config, inputs):
        return f"{output}: already done"
    pairs = _read_pairs(source)
    with new_folder(output, overwrite) as folder:
        files = write_shards(with_negatives_of_others(pairs, seed), folder)
        counts = {"input_rows": len(pairs), "dropped": {}, "rows": len(pairs), "files": files}
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        write_card_and_manifest(folder, output, SUMMARY, **about)
    return f"{output}: {len(pairs):,} pairs, each with the negative of another"


def _read_pairs(source: str) -> pa.Table:
    rows = open_rows(source)
    for name in NEEDED:
        if name not in rows.schema.names:
            raise UsageError(f"--input {source} has no column '{name}'; make pairs with build_pairs.py")
    if rows.num_rows < 2:
        raise UsageError(f"--input {source} has {rows.num_rows} pairs; another problem's negative needs two")
    return pa.Table.from_batches(rows.batches(), rows.schema)


def partners(num_rows: int, seed: int) -> np.ndarray:
    """Another row for every row, each used once: the order of one random cycle through all rows, `(rows,)`."""
    order = np.random.default_rng(seed).permutation(num_rows)
    partner = np.empty(num_rows, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def with_negatives_of_others(pairs: pa.Table, seed: int) -> Iterator[pa.Table]:
    """Pairs whose rejected trace answers another problem: `(problem, chosen, another's rejected)`.

    Every negative is used once, so the distributions of their lengths and errors stay the same. All that changes is
    that a negative no longer belongs to its problem.

    Args:
        pairs: with `rejected` complete conversations, as `build_pairs.py` writes them, and `uuid`. At least two rows.
        seed: of the assignment.

    Yields:
        Some rows at a time: the same columns, and `rejected_uuid`, the row that the negative comes from.
    """
    partner = partners(len(pairs), seed)
    turns = pairs["rejected"].to_pylist()
    moved = {name: pairs[name].take(pa.array(partner)) for name in MOVED if name in pairs.column_names}
    uuids = pairs["uuid"].take(pa.array(partner))
    for start in range(0, len(pairs), 1000):
        rows = pairs.slice(start, 1000)
        whose = partner[start : start + len(rows)]
        rejected = [turns[start + i][:-1] + turns[other][-1:] for i, other in enumerate(whose)]
        columns = {name: column.slice(start, len(rows)) for name, column in moved.items()}
        columns["rejected"] = pa.array(rejected, pairs.schema.field("rejected").type)
        for name, column in columns.items():
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
        yield rows.append_column("rejected_uuid", uuids.slice(start, len(rows)))
