"""Selects positives and pairs by the paper's rules: which problems are kept, and which of their generations.

The rules work on record batches of `reading.schema.SCHEMA`; a "generation" below is its position in its row.
"""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.reading.schema import VERIFIERS
from redi.runs.errors import UsageError

RULES = ("both", "either")
NEGATIVES = ("not-both", "neither")

# In the order of the checks; a row is counted under the first that it fails.
CHECKS = ("problem not valid", "source excluded", "problem empty", "no generations", "verifier lists mismatch")
NO_POSITIVE = "no positive generation"
NO_NEGATIVE = "no negative generation"
TRUNCATED = "only truncated generations"
CUT = "length"  # the finish reason of a generation that was cut at the token limit


def list_lengths(lists: pa.ListArray) -> np.ndarray:
    """The length of each list, 0 for a missing one, `(rows,)`."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)


def eligible_rows(batch: pa.RecordBatch, exclude_sources: list[str]) -> tuple[np.ndarray, Counter]:
    """The positions of the rows that pass every check, ascending, and how many fail each, counted under the first."""
    valid = [text is not None and text.strip().lower() == "yes" for text in batch["problem_is_valid"].to_pylist()]
    excluded = pc.is_in(batch["source"], value_set=pa.array(exclude_sources, pa.string()))
    length = pc.fill_null(pc.binary_length(batch["problem"]), 0)  # white space alone is not empty
    counts = list_lengths(batch["generations"])
    mismatched = [list_lengths(batch[name]) != counts for name in VERIFIERS]
    failed = [~np.array(valid, dtype=bool), excluded.to_numpy(zero_copy_only=False), length.to_numpy() == 0]
    failed += [counts == 0, np.logical_or(*mismatched)]
    first = np.select(failed, range(len(CHECKS)), default=len(CHECKS))
    numbers = np.bincount(first, minlength=len(CHECKS)).tolist()
    return np.flatnonzero(first == len(CHECKS)), Counter(dict(zip(CHECKS, numbers, strict=False)))


def first_true(flags: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first generation of each row whose flag is set, -1 if none is, `(rows,)`.

    The flags are bool, one row after the other, `(counts.sum(),)`; `counts` are generations per row, `(rows,)`.
    """
    first = np.full(len(counts), -1)
    row_of = np.repeat(np.arange(len(counts)), counts)
    rows, where = np.unique(row_of[flags], return_index=True)  # return_index gives the first occurrence
    first[rows] = np.flatnonzero(flags)[where] - (np.cumsum(counts) - counts)[rows]
    return first


def truncated(reasons: pa.ListArray, counts: np.ndarray) -> pa.BooleanArray:
    """Which generations were cut at the token limit, `(counts.sum(),)`, by `finish_reasons` and `counts` of `(rows,)`.

    Null where that is not known: the reason is null, or the row's reasons are null or of another number.
    """
    known = pc.fill_null(pc.list_value_length(reasons), -1).to_numpy(zero_copy_only=False) == counts
    is_known = np.repeat(known, counts)
    places = pa.array(np.cumsum(is_known) - 1, mask=~is_known)
    return pc.equal(reasons.filter(pa.array(known)).flatten(), CUT).take(places)


class _Candidates:
    """The rows of a batch that pass every check, by position, and their generations, one row after the other."""

    def __init__(self, batch: pa.RecordBatch, exclude_sources: list[str], drop_truncated: bool):
        self.batch, self.drop_truncated = batch, drop_truncated
        self.rows, self.drops = eligible_rows(batch, exclude_sources)  # the drops are of the other rows, by reason
        counts = list_lengths(batch["generations"])
        self._starts = np.cumsum(counts) - counts
        self._texts = batch["generations"].flatten()
        self.counts = counts[self.rows]
        lists = (batch[name].take(pa.array(self.rows)).flatten() for name in VERIFIERS)
        self.llama, self.math_verify = map(_flags, lists)
        self.cut = truncated(batch["finish_reasons"].take(pa.array(self.rows)), self.counts)
        self.usable = ~_flags(self.cut) if drop_truncated else np.ones(len(self.cut), dtype=bool)

    def choose(self, kinds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The first usable generation of each kind, -1 if there is none; counts such rows under the kind's name."""
        left = np.ones(len(self.rows), dtype=bool)
        for reason, flags in kinds.items():
            missing = left & (first_true(flags, self.counts) < 0)
            self.drops[reason] = int(missing.sum())
            left &= ~missing
        chosen = [first_true(flags & self.usable, self.counts) for flags in kinds.values()]
        if self.drop_truncated:
            self.drops[TRUNCATED] = int((left & (np.min(chosen, axis=0) < 0)).sum())
        return chosen

    def provenance(self, rows: np.ndarray) -> dict[str, pa.Array]:
        found = self.batch.select(["source", "original_index"]).take(pa.array(rows))
        return {"source": found["source"], "uuid": self._hashes(rows), "original_index": found["original_index"]}

    def conversations(self, rows: np.ndarray, generation: np.ndarray) -> pa.ListArray:
        """`[{role: user, content: problem}, {role: assistant, content: generation}]` for each row."""
        texts = self._texts.take(pa.array(self._starts[rows] + generation))
        if texts.null_count:
            where = np.flatnonzero(texts.is_null())[0]
            row, number = self.batch["original_index"][rows[where]], generation[where]
            raise UsageError(f"--input: row {row}: generation {number} is selected but null; drop that row")
        interleaved = np.arange(2 * len(rows)).reshape(2, len(rows)).T.reshape(-1)
        contents = pa.concat_arrays([self.batch["problem"].take(pa.array(rows)), texts]).take(pa.array(interleaved))
        roles = pa.array(["user", "assistant"] * len(rows), pa.string())
        turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
        return pa.ListArray.from_arrays(np.arange(0, 2 * len(rows) + 1, 2, dtype=np.int32), turns)

    def were_cut(self, kept: np.ndarray, generation: np.ndarray) -> pa.BooleanArray:
        """Whether a generation was cut, of each of `rows` that is `kept`."""
        return self.cut.take(pa.array((np.cumsum(self.counts) - self.counts)[kept] + generation))

    def _hashes(self, rows: np.ndarray) -> pa.Array:
        """The `uuid` of each row: the first 32 hexadecimal digits of a SHA-256.

        Hashed are a JSON list of lengths in UTF-8 bytes (of the problem and each generation), a newline, and these
        texts.
        """
        texts = self.batch.select(["problem", "generations"]).take(pa.array(rows))
        texts = texts.cast(pa.schema({"problem": pa.binary(), "generations": pa.list_(pa.binary())}))
        hashes = []
        for row in texts.to_pylist():
            parts = [row["problem"], *(text or b"" for text in row["generations"])]
            digest = hashlib.sha256(f"{list(map(len, parts))}\n".encode() + b"".join(parts))
            hashes.append(digest.hexdigest()[:32])
        return pa.array(hashes, pa.string())


def _flags(array: pa.BooleanArray) -> np.ndarray:
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)


def select_positives(
    batch: pa.RecordBatch, rule: str, exclude_sources: list[str], drop_truncated: bool = False
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The positives of a batch of `reading.schema.SCHEMA`: problems with their first generation that verifiers accept.

    By "both" a generation is positive if both verifiers accept it; by "either" it is the first that both accept, or
    else the first that one accepts, and `sft_rule` says which ("LandMV_preferred", "LorMV_only"). `drop_truncated`
    leaves out the generations that were cut at the token limit. Returns the rows (`messages, chosen_gen_idx, source,
    uuid, original_index`, `sft_rule` and, to be counted, `chosen_cut`) and the number dropped for each reason.
    """
    found = _Candidates(batch, exclude_sources, drop_truncated)
    both = found.llama & found.math_verify
    (chosen,) = found.choose({NO_POSITIVE: found.llama | found.math_verify if rule == "either" else both})
    kept = chosen >= 0
    preferred = first_true(both & found.usable, found.counts)[kept]
    chosen = np.where(preferred >= 0, preferred, chosen[kept])
    rows = found.rows[kept]
    columns = {"messages": found.conversations(rows, chosen), "chosen_gen_idx": pa.array(chosen, pa.int64())}
    columns |= found.provenance(rows)
    if rule == "either":
        names = np.where(preferred >= 0, "LandMV_preferred", "LorMV_only")
        columns["sft_rule"] = pa.array(names.tolist(), pa.string())
    columns["chosen_cut"] = found.were_cut(kept, chosen)
    return pa.record_batch(columns), found.drops


def select_pairs(
    batch: pa.RecordBatch, exclude_sources: list[str], negatives: str = "not-both", drop_truncated: bool = False
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The pairs of a batch: each problem's first generation that both verifiers accept, and its first negative one.

    By "not-both" a generation is negative unless both verifiers accept it, so one may have, and its text may even
    equal the chosen one's; by "neither" it is negative if neither accepts it. The rest is as in `select_positives`.
    The rows hold `prompt, chosen, rejected, source, uuid, original_index, chosen_gen_idx, rejected_gen_idx` and, to
    be counted, `chosen_cut, rejected_cut`.
    """
    found = _Candidates(batch, exclude_sources, drop_truncated)
    both = found.llama & found.math_verify
    negative = ~(found.llama | found.math_verify) if negatives == "neither" else ~both
    chosen, rejected = found.choose({NO_POSITIVE: both, NO_NEGATIVE: negative})
    kept = (chosen >= 0) & (rejected >= 0)
    rows, sides = found.rows[kept], {"chosen": chosen[kept], "rejected": rejected[kept]}
    columns = {
        "prompt": batch["problem"].take(pa.array(rows)),
        **{side: found.conversations(rows, generation) for side, generation in sides.items()},
        **found.provenance(rows),
        **{f"{side}_gen_idx": pa.array(generation, pa.int64()) for side, generation in sides.items()},
        **{f"{side}_cut": found.were_cut(kept, generation) for side, generation in sides.items()},
    }
    return pa.record_batch(columns), found.drops
