"""Selects positives and pairs by the paper's rules: which problems are kept, and which of their generations.

The rules work on record batches of `reading.schema.SCHEMA`; a "generation" below is its position in its row.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.reading.schema import VERIFIERS
from redi.data.truncation import truncated
from redi.runs.errors import UsageError

RULES = ("both", "either")
NEGATIVES = ("not-both", "neither")

# In the order of the checks; a row is counted under the first that it fails.
CHECKS = ("problem not valid", "source excluded", "problem empty", "no generations", "verifier lists mismatch")
NO_POSITIVE = "no positive generation"
NO_NEGATIVE = "no negative generation"
TRUNCATED = "only truncated generations"


def excluded_sources(sources: list[str] | None) -> list[str]:
    """The sources to drop, sorted; by default the paper's, cn_k12."""
    return ["cn_k12"] if sources is None else sorted(set(sources))


@dataclass(frozen=True)
class Generations:
    """The generations of the rows of one batch, laid out flat.

    Attributes:
        texts: all generations of all rows, one row after the other, `(generations,)`.
        counts: of each row, 0 if the list is null, `(rows,)`.
        starts: where the generations of each row begin in `texts`, `(rows,)`.
        original_index: the position of each row in the corpus, `(rows,)`.
    """

    texts: pa.StringArray
    counts: np.ndarray
    starts: np.ndarray
    original_index: pa.Int64Array

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> "Generations":
        counts = list_lengths(batch["generations"])
        starts = np.cumsum(counts) - counts
        return cls(batch["generations"].flatten(), counts, starts, batch["original_index"])

    def take(self, rows: np.ndarray, generation: np.ndarray) -> pa.StringArray:
        """The text of one generation of each of `rows`; a null one is a `UsageError`."""
        texts = self.texts.take(pa.array(self.starts[rows] + generation))
        if texts.null_count:
            where = np.flatnonzero(texts.is_null())[0]
            raise UsageError(
                f"--input: row {self.original_index[rows[where]]}: generation {generation[where]} is selected "
                "but null; drop that row"
            )
        return texts


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
    failed = [
        ~np.array(valid, dtype=bool),
        excluded.to_numpy(zero_copy_only=False),
        length.to_numpy() == 0,
        counts == 0,
        np.logical_or(*mismatched),
    ]
    first = np.select(failed, range(len(CHECKS)), default=len(CHECKS))
    numbers = np.bincount(first, minlength=len(CHECKS)).tolist()
    return np.flatnonzero(first == len(CHECKS)), Counter(dict(zip(CHECKS, numbers, strict=False)))


def verdicts(batch: pa.RecordBatch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each verifier's verdicts on the generations of eligible `rows`, `(generations,)`; None counts as False."""
    lists = (batch[name].take(pa.array(rows)).flatten() for name in VERIFIERS)
    first, second = (pc.fill_null(flags, False).to_numpy(zero_copy_only=False) for flags in lists)
    return first, second


def first_true(flags: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first generation of each row whose flag is set, -1 if none is.

    Args:
        flags: bool, one row after the other, `(counts.sum(),)`.
        counts: generations per row, `(rows,)`.
    """
    first = np.full(len(counts), -1)
    row_of = np.repeat(np.arange(len(counts)), counts)
    rows, where = np.unique(row_of[flags], return_index=True)  # return_index gives the first occurrence
    first[rows] = np.flatnonzero(flags)[where] - (np.cumsum(counts) - counts)[rows]
    return first


def content_hashes(batch: pa.RecordBatch, generations: Generations, rows: np.ndarray) -> list[str]:
    """The `uuid` of each of `rows`: a hash of its problem and all its generations, and nothing else.

    It is the first 32 hexadecimal digits of a SHA-256. Hashed are a JSON list of lengths in UTF-8 bytes (of the
    problem and each generation), a newline, and then these texts in the same order. The result is the same on every
    machine, and the same in positives and pairs, whatever the rule.
    """
    problems, problem_ends = _utf8(batch["problem"])
    texts, ends = _utf8(generations.texts)
    text_lengths = np.diff(ends).tolist()
    problem_ends, ends = problem_ends.tolist(), ends.tolist()  # Python integers index faster
    hashes = []
    places = (rows.tolist(), generations.starts[rows].tolist(), generations.counts[rows].tolist())
    for row, start, count in zip(*places, strict=True):
        problem = problems[problem_ends[row] : problem_ends[row + 1]]
        lengths = [len(problem), *text_lengths[start : start + count]]
        digest = hashlib.sha256(f"{lengths}\n".encode())
        digest.update(problem)
        digest.update(texts[ends[start] : ends[start + count]])
        hashes.append(digest.hexdigest()[:32])
    return hashes


def _utf8(array: pa.StringArray) -> tuple[memoryview, np.ndarray]:
    """The bytes of a string array, not copied, and the `(len + 1,)` offsets of its texts in them."""
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data if data is not None else b""), ends


def conversations(problems: pa.StringArray, responses: pa.StringArray) -> pa.ListArray:
    """`[{role: user, content: problem}, {role: assistant, content: response}]` for each row."""
    num_rows = len(problems)
    interleaved = np.arange(2 * num_rows).reshape(2, num_rows).T.reshape(-1)
    contents = pa.concat_arrays([problems, responses]).take(pa.array(interleaved))
    roles = pa.array(["user", "assistant"] * num_rows, pa.string())
    turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return pa.ListArray.from_arrays(np.arange(0, 2 * num_rows + 1, 2, dtype=np.int32), turns)


def select_positives(
    batch: pa.RecordBatch, rule: str, exclude_sources: list[str], drop_truncated: bool = False
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The positives of a batch: each problem with its first generation that the verifiers accept.

    Args:
        batch: rows of `reading.schema.SCHEMA`.
        rule: "both": a generation is positive if both verifiers accept it. "either": the first that both accept, or
            else the first that one accepts; the column `sft_rule` says which ("LandMV_preferred", "LorMV_only").
        exclude_sources: values of `source` whose rows are dropped.
        drop_truncated: leave out the generations that were cut at the token limit.

    Returns:
        The rows (`messages, chosen_gen_idx, source, uuid, original_index`, and `sft_rule`), in the batch's order, and
        the number of rows dropped for each reason.
    """
    rows, drops = eligible_rows(batch, exclude_sources)
    generations = Generations.of(batch)
    counts = generations.counts[rows]
    llama, math_verify = verdicts(batch, rows)
    accepted = llama | math_verify if rule == "either" else llama & math_verify
    usable = _usable(batch, rows, counts, drop_truncated)
    kept = first_true(accepted & usable, counts) >= 0
    missing = first_true(accepted, counts) < 0
    drops[NO_POSITIVE] = int(missing.sum())
    if drop_truncated:
        drops[TRUNCATED] = int((~kept & ~missing).sum())
    preferred = first_true(llama & math_verify & usable, counts)[kept]
    chosen = np.where(preferred >= 0, preferred, first_true(accepted & usable, counts)[kept])
    rows = rows[kept]

    problems = batch["problem"].take(pa.array(rows))
    columns = {
        "messages": conversations(problems, generations.take(rows, chosen)),
        "chosen_gen_idx": pa.array(chosen, pa.int64()),
        **_provenance(batch, generations, rows),
    }
    if rule == "either":
        names = np.where(preferred >= 0, "LandMV_preferred", "LorMV_only")
        columns["sft_rule"] = pa.array(names.tolist(), pa.string())
    return pa.record_batch(columns), drops


def select_pairs(
    batch: pa.RecordBatch, exclude_sources: list[str], negatives: str = "not-both", drop_truncated: bool = False
) -> tuple[pa.RecordBatch, Counter[str]]:
    """The pairs of a batch: each problem's first generation that both verifiers accept, and its first negative one.

    Args:
        batch: rows of `reading.schema.SCHEMA`.
        exclude_sources: values of `source` whose rows are dropped.
        negatives: "not-both": a generation is negative unless both verifiers accept it, so one may have, and its text
            may even equal the chosen one's. "neither": negative if neither accepts it.
        drop_truncated: leave out the generations that were cut at the token limit.

    Returns:
        The rows (`prompt, chosen, rejected, source, uuid, original_index, chosen_gen_idx, rejected_gen_idx`), in the
        batch's order, and the number of rows dropped for each reason.
    """
    rows, drops = eligible_rows(batch, exclude_sources)
    generations = Generations.of(batch)
    counts = generations.counts[rows]
    llama, math_verify = verdicts(batch, rows)
    positive = llama & math_verify
    negative = ~(llama | math_verify) if negatives == "neither" else ~positive
    has_positive, has_negative = (first_true(flags, counts) >= 0 for flags in (positive, negative))
    usable = _usable(batch, rows, counts, drop_truncated)
    chosen, rejected = (first_true(flags & usable, counts) for flags in (positive, negative))
    kept = (chosen >= 0) & (rejected >= 0)
    drops[NO_POSITIVE] = int((~has_positive).sum())
    drops[NO_NEGATIVE] = int((has_positive & ~has_negative).sum())
    if drop_truncated:
        drops[TRUNCATED] = int((has_positive & has_negative & ~kept).sum())
    rows, chosen, rejected = rows[kept], chosen[kept], rejected[kept]

    problems = batch["problem"].take(pa.array(rows))
    columns = {
        "prompt": problems,
        "chosen": conversations(problems, generations.take(rows, chosen)),
        "rejected": conversations(problems, generations.take(rows, rejected)),
        **_provenance(batch, generations, rows),
        "chosen_gen_idx": pa.array(chosen, pa.int64()),
        "rejected_gen_idx": pa.array(rejected, pa.int64()),
    }
    return pa.record_batch(columns), drops


def _usable(batch: pa.RecordBatch, rows: np.ndarray, counts: np.ndarray, drop_truncated: bool) -> np.ndarray:
    """The generations of `rows` that may be selected, bool `(generations,)`."""
    if not drop_truncated:
        return np.ones(counts.sum(), dtype=bool)
    return ~truncated(batch["finish_reasons"].take(pa.array(rows)), counts)


def _provenance(batch: pa.RecordBatch, generations: Generations, rows: np.ndarray) -> dict[str, pa.Array]:
    return {
        "source": batch["source"].take(pa.array(rows)),
        "uuid": pa.array(content_hashes(batch, generations, rows), pa.string()),
        "original_index": batch["original_index"].take(pa.array(rows)),
    }
