"""Gives every pair the negative of another problem: a control of whether negatives must belong to their problem."""

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from redi.data.dataset_folder import is_done, new_dataset
from redi.data.reading.rows import open_rows
from redi.data.row_texts import read_texts
from redi.data.shuffle import write_shards
from redi.runs.errors import UsageError

SUMMARY = "Pairs in which every rejected trace answers the problem of another pair, each used once."
ORIGIN = "rejected_uuid"


def shuffle_negatives(source: str, output: Path, *, seed: int = 42, overwrite: bool = False) -> str:
    """Writes the pairs of `source` with the negatives of other problems to `output`; returns what to print.

    Every negative is used once, so the distributions of their lengths and errors stay the same.
    """
    config, inputs = {"seed": seed}, {"pairs": source}
    if is_done(output, config, inputs, overwrite):
        return f"{output}: already done"
    with new_dataset(output, config, inputs, overwrite) as new:
        rows = open_rows(source)
        for name in ("rejected", "chosen", "uuid"):
            if name not in rows.schema.names:
                raise UsageError(f"--input {source} has no column '{name}'; make pairs with build_pairs.py")
        if ORIGIN in rows.schema.names:
            raise UsageError(f"--input {source} has '{ORIGIN}', so its negatives are shuffled; give the original")
        batches, problems = list(rows.batches()), []
        for batch in batches:
            problems += map(json.dumps, read_texts(batch, len(problems))[0])
        pairs = pa.Table.from_batches(batches, rows.schema)
        files = write_shards(_with_negatives_of_others(pairs, partners(problems, seed)), new.folder)
        new.finish({"input_rows": len(pairs), "dropped": {}, "rows": len(pairs), "files": files}, SUMMARY)
    return f"{output}: {len(pairs):,} pairs, each with the negative of another"


def partners(problems: Sequence[Hashable], seed: int) -> np.ndarray:
    """A row of another problem for every row, each used once, `(rows,)`.

    In a random order with the rows of each problem together, a row gets the one that is as many places before it as
    the most frequent problem has rows. If all problems differ, this is one random cycle through all rows. A problem
    with more than half of the rows is a `UsageError`.
    """
    largest, number = max(Counter(problems).values(), default=1), len(problems)
    if 2 * largest > number:
        raise UsageError(f"--input: {largest} of {number} pairs have the same problem; at most half of them may")
    order = np.random.default_rng(seed).permutation(len(problems))
    places: dict[Hashable, int] = {}
    place_of = [places.setdefault(problems[row], len(places)) for row in order]
    order = order[np.argsort(place_of, kind="stable")]
    partner = np.empty_like(order)
    partner[order] = np.roll(order, largest)
    return partner


def _with_negatives_of_others(pairs: pa.Table, partner: np.ndarray) -> Iterator[pa.Table]:
    """The pairs with `rejected`, `rejected_*` and, as `rejected_uuid`, the `uuid` of their partners."""
    sides = pairs["rejected"].to_pylist()
    moving = [name for name in pairs.column_names if name.startswith("rejected_")]
    others = pairs.select(["uuid", *moving]).take(partner)
    for start in range(0, len(pairs), 1000):
        rows, moved = pairs.slice(start, 1000), others.slice(start, 1000)
        owns, theirs = sides[start : start + 1000], (sides[i] for i in partner[start : start + 1000])
        answers = [
            other if isinstance(own, str) else own[:-1] + other[-1:]  # to a row's own prompt
            for own, other in zip(owns, theirs, strict=True)
        ]
        columns = {"rejected": pa.array(answers, rows.schema.field("rejected").type)}
        for name, column in (columns | {name: moved[name] for name in moving}).items():
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        yield rows.append_column(ORIGIN, moved["uuid"])
