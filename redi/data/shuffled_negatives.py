"""Gives every pair the negative of another problem: a control of whether negatives must belong to their problem."""

import json
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from redi.data.dataset_folder import refuse_output_over_input, write_card_and_manifest
from redi.data.reading.rows import open_rows
from redi.data.row_texts import read_texts
from redi.data.shuffle import write_shards
from redi.runs.errors import UsageError
from redi.runs.files import new_folder
from redi.runs.manifest import is_finished

SUMMARY = "Pairs in which every rejected trace answers the problem of another pair, each used once."
ORIGIN = "rejected_uuid"


def shuffle_negatives(source: str, output: Path, *, seed: int = 42, overwrite: bool = False) -> str:
    """Writes the pairs of `source` with the negatives of other problems to `output`; returns what to print."""
    started = time.time()
    config, inputs = {"seed": seed}, {"pairs": source}
    refuse_output_over_input(output, inputs)
    if not overwrite and is_finished(output, config, inputs):
        return f"{output}: already done"
    rows = open_rows(source)
    for name in ("rejected", "chosen", "uuid"):
        if name not in rows.schema.names:
            raise UsageError(f"--input {source} has no column '{name}'; make pairs with build_pairs.py")
    if ORIGIN in rows.schema.names:
        raise UsageError(f"--input {source} has a column '{ORIGIN}', so its negatives are shuffled; give the original")
    problems: list[str] = []
    batches = []
    for batch in rows.batches():
        problems += map(json.dumps, read_texts(batch, len(problems))[0])
        batches.append(batch)
    pairs = pa.Table.from_batches(batches, rows.schema)
    with new_folder(output, overwrite) as folder:
        files = write_shards(with_negatives_of_others(pairs, partners(problems, seed)), folder)
        counts = {"input_rows": len(pairs), "dropped": {}, "rows": len(pairs), "files": files}
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        write_card_and_manifest(folder, output, SUMMARY, **about)
    return f"{output}: {len(pairs):,} pairs, each with the negative of another"


def partners(problems: Sequence[Hashable], seed: int) -> np.ndarray:
    """A row of another problem for every row, each used once, `(rows,)`.

    In a random order with the rows of each problem together, a row gets the one that is as many places before it as
    the most frequent problem has rows. If all problems differ, this is one random cycle through all rows.

    Raises:
        UsageError: a problem has more than half of the rows.
    """
    largest = max(Counter(problems).values(), default=1)
    if 2 * largest > len(problems):
        raise UsageError(
            f"--input: {largest} of {len(problems)} pairs have the same problem; at most half of them may"
        )
    order = np.random.default_rng(seed).permutation(len(problems))
    places: dict[Hashable, int] = {}
    place_of = [places.setdefault(problems[row], len(places)) for row in order]
    order = order[np.argsort(place_of, kind="stable")]
    partner = np.empty_like(order)
    partner[order] = np.roll(order, largest)
    return partner


def with_negatives_of_others(pairs: pa.Table, partner: np.ndarray) -> Iterator[pa.Table]:
    """Pairs whose rejected trace answers another problem: `(problem, chosen, another's rejected)`.

    Every negative is used once, so the distributions of their lengths and errors stay the same. All that changes is
    that a negative no longer belongs to its problem. The columns `rejected_*` move with the negatives.

    Args:
        pairs: as `redi.data.row_texts.read_texts` reads them, with `uuid`.
        partner: the row whose negative each row gets, `(rows,)`.

    Yields:
        Some rows at a time: the same columns, and `rejected_uuid`, the row that the negative comes from.
    """
    sides = pairs["rejected"].to_pylist()
    others = pairs.select(["uuid", *(n for n in pairs.column_names if n.startswith("rejected_"))]).take(partner)
    for start in range(0, len(pairs), 1000):
        rows, moved = pairs.slice(start, 1000), others.slice(start, 1000)
        rejected = [_answer(sides[start + i], sides[partner[start + i]]) for i in range(len(rows))]
        columns = {"rejected": pa.array(rejected, rows.schema.field("rejected").type)}
        columns |= {name: moved[name] for name in moved.column_names if name != "uuid"}
        for name, column in columns.items():
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        yield rows.append_column(ORIGIN, moved["uuid"])


def _answer(own: str | list, other: str | list) -> str | list:
    """The other side's answer to the own side's prompt."""
    return other if isinstance(own, str) else own[:-1] + other[-1:]
