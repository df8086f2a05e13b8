"""Traces that were cut at the token limit: which they are, and how many of them become positives and negatives.

A column `finish_reasons`, with a text per generation, says so by "length". The paper does not tell these traces apart,
so most of them are negatives: a trace without an answer is not accepted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CUT = "length"
ROLES = {"chosen_gen_idx": "chosen", "rejected_gen_idx": "rejected"}


def truncated(reasons: pa.ListArray, counts: np.ndarray) -> np.ndarray:
    """Which generations were cut, bool `(counts.sum(),)`: none of a row whose reasons are null or of another number.

    Args:
        reasons: `finish_reasons`, `(rows,)`.
        counts: generations of each row, `(rows,)`.
    """
    known = pc.fill_null(pc.list_value_length(reasons), -1).to_numpy(zero_copy_only=False) == counts
    cut = np.zeros(counts.sum(), dtype=bool)
    flat = reasons.filter(pa.array(known)).flatten()
    cut[np.repeat(known, counts)] = pc.fill_null(pc.equal(flat, CUT), False).to_numpy(zero_copy_only=False)
    return cut


class TruncatedTraces:
    """Remembers the cut traces of a corpus, and counts those that datasets made from it hold."""

    def __init__(self) -> None:
        self._cut: set[tuple[int, int]] = set()  # row of the corpus, generation
        self._is_known = False
        self._found: Counter[str] = Counter()

    def noting(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Passes on batches of the corpus."""
        for batch in batches:
            reasons = batch["finish_reasons"]
            if reasons.null_count < len(reasons):
                self._is_known = True
                counts = pc.fill_null(pc.list_value_length(batch["generations"]), 0).to_numpy(zero_copy_only=False)
                cut = truncated(reasons, counts)
                row = np.repeat(batch["original_index"].to_numpy(), counts)[cut]
                generation = np.flatnonzero(cut) - np.repeat(np.cumsum(counts) - counts, counts)[cut]
                self._cut.update(zip(row.tolist(), generation.tolist(), strict=True))
            yield batch

    def counting(self, tables: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.Table | pa.RecordBatch]:
        """Passes on rows of a dataset: positives or pairs."""
        self._found = Counter()
        for table in tables:
            for column, role in ROLES.items():
                if column in table.schema.names:
                    traces = zip(table["original_index"].to_pylist(), table[column].to_pylist(), strict=True)
                    self._found[role] += sum(trace in self._cut for trace in traces)
            yield table

    def counts(self) -> dict[str, dict[str, int]]:
        """`truncated`: the last dataset's cut traces by role; nothing if the corpus has no finish reasons."""
        return {"truncated": dict(self._found)} if self._is_known else {}
