"""Datasets that change one thing about the pairs, to see where a gain comes from."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

MOVED = ("rejected_gen_idx", "rejected_len")  # columns that belong to a negative


def partners(num_rows: int, seed: int) -> np.ndarray:
    """Another row for every row, each taken once: the order of one random cycle through all rows, `(rows,)`."""
    order = np.random.default_rng(seed).permutation(num_rows)
    partner = np.empty(num_rows, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def with_negatives_of_others(pairs: pa.Table, seed: int) -> Iterator[pa.Table]:
    """Pairs whose rejected trace answers another problem: `(problem, chosen, another's rejected)`.

    Every negative is used once, so their lengths and errors as a whole stay the same; that it belongs to the problem
    is all that is lost.

    Args:
        pairs: with `rejected` whole conversations, as `build_pairs.py` writes them, and `uuid`. At least two rows.
        seed: of who gets whose.

    Yields:
        Some rows at a time: the same columns, and `rejected_uuid`, the row that the negative is of.
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
