"""What the verifiers' verdicts are worth: the same training with the verdicts turned around for half of the problems.

The construction is that of the original's `data_preprocess/ablation_verifier_signal.py` at
https://github.com/Tim-Siu/reinforcement-distillation/tree/dda07d2. A negative is a generation that neither verifier
accepts. The problems with a positive and such a negative are put in the order of the corpus's shuffle, shuffled again
and halved:

- `sft`: the positives of half 1, the negatives of half 2, and the positives of the problems without such a negative;
- `main`: pairs of half 1, chosen is the positive;
- `inverted`: pairs of half 2, chosen is the negative.

Pairs with a response over a limit are dropped, and the larger of these two sets is sampled down to the other's size.
The texts lie on disk throughout; problems are known by their `original_index`.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from redi.data.lengths.length_filter import response_texts, turn_lengths
from redi.data.selection import select_pairs, select_positives
from redi.data.shuffle import ordered, places_of, write_shards

if TYPE_CHECKING:
    from redi.data.lengths.token_counts import TokenCounter

SPLIT_SEED = 123
SETS = ("sft", "main", "inverted")
SWAPPED = {
    "chosen": "rejected",
    "rejected": "chosen",
    "chosen_gen_idx": "rejected_gen_idx",
    "rejected_gen_idx": "chosen_gen_idx",
    "chosen_len": "rejected_len",
    "rejected_len": "chosen_len",
}
Lengths = dict[str, np.ndarray]  # prompt_len, chosen_len, rejected_len -> tokens by original_index, (rows of corpus,)


@dataclass(frozen=True)
class Halves:
    """The problems of the sets, in the original's order.

    Attributes:
        first, second: the halves of the problems with a positive and a negative.
        rest: the problems with a positive that have no negative.
    """

    first: list[int]
    second: list[int]
    rest: list[int]


@dataclass(frozen=True)
class Stored:
    """What the sets are made of, in two files of Arrow batches in the order of the corpus.

    Attributes:
        pairs: the file of the positive (`chosen`) and negative (`rejected`) of the problems that have both.
        positives: the file of the positives of the problems that have no negative.
        paired, single: the problems in these files.
        dropped: the other rows of the corpus, by reason.
    """

    pairs: Path
    positives: Path
    paired: list[int]
    single: list[int]
    dropped: Counter[str]


def store(batches: Iterable[pa.RecordBatch], exclude_sources: list[str], folder: Path) -> Stored:
    """Selects from a corpus, read once, and writes the two files into `folder`."""
    stored = Stored(folder / "pairs.arrow", folder / "positives.arrow", [], [], Counter())
    writers: list[pa.RecordBatchWriter] = []
    with ExitStack() as stack:
        for batch in batches:
            pairs, _ = select_pairs(batch, exclude_sources, negatives="neither")
            positives, drops = select_positives(batch, "both", exclude_sources)
            stored.dropped.update(drops)
            is_paired = pc.is_in(positives["original_index"], value_set=pairs["original_index"])
            parts = pairs, positives.filter(pc.invert(is_paired))
            if not writers:
                paths = stored.pairs, stored.positives
                files = [pa.ipc.new_stream(str(path), part.schema) for path, part in zip(paths, parts, strict=True)]
                writers = [stack.enter_context(file) for file in files]
            for writer, part, found in zip(writers, parts, (stored.paired, stored.single), strict=True):
                writer.write_batch(part)
                found += part["original_index"].to_pylist()
    return stored


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def _only(path: Path, problems: Sequence[int]) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(problems, pa.int64())
    for batch in _read(path):
        yield batch.filter(pc.is_in(batch["original_index"], value_set=wanted))


def split(paired: Sequence[int], single: Sequence[int], place: np.ndarray) -> Halves:
    """Shuffles and halves the problems with a negative; `place` is each row's in the shuffle of the corpus."""
    order = sorted(paired, key=place.__getitem__)
    random.Random(SPLIT_SEED).shuffle(order)
    middle = len(order) // 2
    return Halves(order[:middle], order[middle:], sorted(single, key=place.__getitem__))


def equal_size(main: list[int], inverted: list[int]) -> tuple[list[int], list[int]]:
    """Samples the larger list down to the size of the smaller, which also puts it in another order."""
    size = min(len(main), len(inverted))
    main, inverted = (
        random.Random(SPLIT_SEED).sample(problems, size) if len(problems) > size else problems
        for problems in (main, inverted)
    )
    return main, inverted


def count_tokens(pairs: Path, counter: "TokenCounter", num_rows: int) -> Lengths:
    """The lengths of the stored pairs, counted as the original's ablation does.

    A response's is that of its bare text, plus 1 for the eos token; the prompt's, which nothing depends on, is that of
    its turn alone through the chat template, plus 1.
    """

    def texts(name: str) -> Iterator[list[str]]:
        with tqdm(total=len(index), desc=f"counting tokens, {name}", unit=" pairs", disable=None) as progress:
            for batch in _read(pairs):
                yield response_texts(pa.chunked_array([batch[name]])).to_pylist()
                progress.update(len(batch))

    index = np.concatenate([batch["original_index"].to_numpy() for batch in _read(pairs)])
    prompts = [prompt for batch in _read(pairs) for prompt in batch["prompt"].to_pylist()]
    lengths = {name: np.zeros(num_rows, dtype=np.int64) for name in ("prompt_len", "chosen_len", "rejected_len")}
    lengths["prompt_len"][index] = turn_lengths(counter, "user", prompts)
    for name in ("chosen", "rejected"):
        lengths[f"{name}_len"][index] = np.array(counter.count(texts(name)), dtype=np.int64) + 1
    return lengths


def within(problems: list[int], lengths: Lengths, max_response_tokens: int) -> list[int]:
    """The problems with both responses within the limit, which is inclusive."""
    longest = np.maximum(lengths["chosen_len"], lengths["rejected_len"])
    return [problem for problem in problems if longest[problem] <= max_response_tokens]


def write_sft(stored: Stored, halves: Halves, num_rows: int, folder: Path) -> dict[str, int]:
    """Writes the set `sft` in the columns of positives and `sft_source`; returns its rows by file."""
    order = [*halves.first, *halves.second, *halves.rest]
    return _write(_sft_batches(stored, halves), order, num_rows, folder)


def _sft_batches(stored: Stored, halves: Halves) -> Iterator[pa.RecordBatch]:
    for problems, role, name in (
        (halves.first, "chosen", "group1_correct"),
        (halves.second, "rejected", "group2_incorrect"),
    ):
        for batch in _only(stored.pairs, problems):
            columns = {"messages": batch[role], "chosen_gen_idx": batch[f"{role}_gen_idx"]}
            columns |= {column: batch[column] for column in ("source", "uuid", "original_index")}
            yield _with_sft_source(pa.record_batch(columns), name)
    for batch in _read(stored.positives):
        yield _with_sft_source(batch, "typeB_correct")


def _with_sft_source(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    return batch.append_column("sft_source", pa.repeat(pa.scalar(name), len(batch)))


def write_pairs(
    stored: Stored, problems: list[int], lengths: Lengths, num_rows: int, folder: Path, inverted: bool
) -> dict[str, int]:
    """Writes pairs of `problems`, in this order and in the columns of pairs; returns their rows by file.

    Args:
        lengths: written as columns, where there are any.
        inverted: the negative is chosen.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _only(stored.pairs, problems):
            for name, of_row in lengths.items():
                batch = batch.append_column(name, pa.array(of_row[batch["original_index"].to_numpy()]))
            names = batch.schema.names
            yield pa.record_batch([batch[SWAPPED.get(n, n) if inverted else n] for n in names], names=names)

    return _write(batches(), problems, num_rows, folder)


def _write(batches: Iterator[pa.RecordBatch], order: list[int], num_rows: int, folder: Path) -> dict[str, int]:
    place = places_of(np.array(order, dtype=np.int64), num_rows)
    return write_shards(ordered(batches, place, folder), folder)
