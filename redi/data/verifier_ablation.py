"""Builds the verifier ablation: the same training data with the verdicts inverted for half of the problems.

The construction is that of the original's `data_preprocess/ablation_verifier_signal.py` at
https://github.com/Tim-Siu/reinforcement-distillation/tree/dda07d2. A negative is a generation that neither verifier
accepts. Problems with a positive and such a negative are put in the order of the corpus's shuffle, shuffled again and
halved:

- `sft`: the positives of half 1, the negatives of half 2, and the positives of the problems without such a negative;
- `main`: pairs of half 1; the positive is chosen;
- `inverted`: pairs of half 2; the negative is chosen.

Pairs with a response over the limit are dropped, and the larger of these two sets is sampled down to the other's size.
The texts stay on disk throughout; problems are identified by `original_index`.
"""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from redi.data.dataset_card import write_parent_card
from redi.data.dataset_folder import (
    already_done,
    check_expected,
    count_table,
    is_complete,
    refuse_output_over_input,
    write_card_and_manifest,
)
from redi.data.lengths.length_filter import MAX_RESPONSE_TOKENS, RESPONSE_TOO_LONG
from redi.data.lengths.length_rules import load_counting_tokenizer, response_texts, turn_lengths
from redi.data.lengths.token_counts import count_tokens
from redi.data.reading.corpus import open_corpus, pinned_input
from redi.data.selection import excluded_sources, select_pairs, select_positives
from redi.data.shuffle import ordered, places_of, shuffled_places, write_shards
from redi.data.truncation import TruncatedTraces
from redi.runs.errors import UsageError
from redi.runs.files import new_folder
from redi.runs.manifest import write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT_SEED = 123
SETS = ("sft", "main", "inverted")
SAMPLED_DOWN = "sampled down"
SUMMARIES = {
    "sft": "Traces for stage 1: accepted ones of half of the problems, rejected ones of the other half, and accepted "
    "ones of the problems without a rejected one.",
    "main": "Pairs of the first half of the problems: chosen is a trace that both verifiers accept.",
    "inverted": "Pairs of the second half of the problems: chosen is a trace that neither verifier accepts.",
}
SWAPPED = {
    "chosen": "rejected",
    "rejected": "chosen",
    "chosen_gen_idx": "rejected_gen_idx",
    "rejected_gen_idx": "chosen_gen_idx",
    "chosen_len": "rejected_len",
    "rejected_len": "chosen_len",
}
PairLengths = dict[
    str, np.ndarray
]  # prompt_len, chosen_len, rejected_len -> tokens by original_index, (rows of corpus,)


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
    """The selected rows, in two files of Arrow batches in the order of the corpus.

    Attributes:
        pairs: file with the positive (`chosen`) and negative (`rejected`) of the problems that have both.
        positives: file with the positives of the problems that have no negative.
        paired, single: the problems in these files.
        dropped: the other rows of the corpus, by reason.
        traces: which traces were cut.
    """

    pairs: Path
    positives: Path
    paired: list[int]
    single: list[int]
    dropped: Counter[str]
    traces: TruncatedTraces


def ablate(
    source: str,
    output: Path,
    *,
    tokenizer: str | None = None,
    max_response_tokens: int | None = None,
    revision: str | None = None,
    exclude_source: list[str] | None = None,
    truncated: str = "keep",
    seed: int = 42,
    expect_rows: int | None = None,
    overwrite: bool = False,
) -> str:
    """Builds the three sets into folders of `output`; returns their counts, to be printed.

    Args:
        source, revision: the corpus, as in `redi.data.reading.corpus.pinned_input`.
        output: the folder; nothing is done if it holds the same sets already.
        tokenizer: drops pairs with a longer response than `max_response_tokens` (inclusive, the bare text plus 1).
        exclude_source: sources to drop, cn_k12 by default.
        truncated: "drop" leaves out the traces that were cut at the token limit.
        seed: of the shuffle of the corpus.
        expect_rows: the number of rows that all three sets must have together.
        overwrite: build again, and replace `output`.
    """
    config = {"exclude_source": excluded_sources(exclude_source), "truncated": truncated, "seed": seed}
    config["split_seed"] = SPLIT_SEED
    inputs = {"corpus": pinned_input(source, revision)}
    if tokenizer is not None:
        config["max_response_tokens"] = MAX_RESPONSE_TOKENS if max_response_tokens is None else max_response_tokens
        inputs["tokenizer"] = tokenizer
    elif max_response_tokens is not None:
        raise UsageError("--max-response-tokens needs a tokenizer to count with; pass --tokenizer with the base model")
    refuse_output_over_input(output, inputs)
    if not overwrite and is_complete(output, config, inputs):
        return already_done(output, expect_rows)
    sets = _write_all(output, config, inputs, expect_rows, overwrite)
    return "\n\n".join(f"{output / name}\n{count_table(counts)}" for name, counts in sets.items())


def _write_all(
    output: Path, config: dict[str, Any], inputs: dict[str, str], expect_rows: int | None, overwrite: bool
) -> dict[str, dict[str, Any]]:
    """Writes the three sets and returns the counts of each."""
    started = time.time()
    tokenizer = load_counting_tokenizer(inputs["tokenizer"]) if "tokenizer" in inputs else None
    corpus = open_corpus(inputs["corpus"])
    with new_folder(output, overwrite) as folder:
        stored = store(corpus.batches, config["exclude_source"], folder, config["truncated"] == "drop")
        if config["truncated"] == "drop" and not stored.traces.counts():
            raise UsageError(f"--truncated drop: {inputs['corpus']} has no finish_reasons, so no trace is known to be")
        if len(stored.paired) < 2:
            raise UsageError(
                f"--input {inputs['corpus']}: {len(stored.paired)} problems have a positive and a negative; "
                "at least two are needed, one for each half"
            )
        lengths = {} if tokenizer is None else count_pair_lengths(stored.pairs, tokenizer, corpus.num_rows)
        place = shuffled_places(corpus.num_rows, config["seed"])
        counts = _write_sets(stored, lengths, place, folder, config.get("max_response_tokens"))
        stored.pairs.unlink()
        stored.positives.unlink()
        check_expected(expect_rows, counts["rows"])
        about = {"inputs": inputs, "started": started}
        for name, of_set in counts["sets"].items():
            of_config = config | {"set": name}
            write_card_and_manifest(
                folder / name, output / name, SUMMARIES[name], config=of_config, counts=of_set, **about
            )
        write_parent_card(folder, title=output.resolve().name, summaries=SUMMARIES)
        write_manifest(folder, config=config, counts=counts, seed=config["seed"], **about)
    return counts["sets"]


def _write_sets(
    stored: "Stored", lengths: PairLengths, place: np.ndarray, folder: Path, max_response_tokens: int | None
) -> dict[str, Any]:
    """Writes the three sets into folders of their names and returns the counts for the manifest."""
    halves = split(stored.paired, stored.single, place)
    half_of = {"main": halves.first, "inverted": halves.second}
    fitting = [within(half, lengths, max_response_tokens) if lengths else half for half in half_of.values()]
    if not all(fitting):
        raise UsageError(
            f"--max-response-tokens {max_response_tokens} leaves {len(fitting[0])} pairs of half 1 and "
            f"{len(fitting[1])} of half 2; raise it"
        )
    for name in SETS:
        (folder / name).mkdir()
    files = write_sft(stored, halves, len(place), folder / "sft")
    dropped = dict(stored.dropped)
    sets = {"sft": {"input_rows": len(place), "dropped": dropped, "rows": sum(files.values()), "files": files}}
    sets["sft"] |= stored.traces.counts()
    for (name, half), fits, problems in zip(half_of.items(), fitting, equal_size(*fitting), strict=True):
        files = write_pairs(stored, problems, lengths, len(place), folder / name, inverted=name == "inverted")
        dropped = {RESPONSE_TOO_LONG: len(half) - len(fits), SAMPLED_DOWN: len(fits) - len(problems)}
        sets[name] = {"input_rows": len(half), "dropped": dropped, "rows": len(problems), "files": files}
        sets[name] |= stored.traces.counts()
    return {
        "rows": sum(of_set["rows"] for of_set in sets.values()),
        "problems": {"half 1": len(halves.first), "half 2": len(halves.second), "without negative": len(halves.rest)},
        "sets": sets,
        "files": {f"{name}/{file}": n for name, of_set in sets.items() for file, n in of_set["files"].items()},
    }


def store(
    batches: Iterable[pa.RecordBatch], exclude_sources: list[str], folder: Path, drop_truncated: bool = False
) -> Stored:
    """Selects from a corpus, read once, and writes the two files into `folder`."""
    stored = Stored(folder / "pairs.arrow", folder / "positives.arrow", [], [], Counter(), TruncatedTraces())
    writers: list[pa.RecordBatchWriter] = []
    with ExitStack() as stack:
        for batch in stored.traces.noting(batches):
            pairs, _ = select_pairs(batch, exclude_sources, "neither", drop_truncated)
            positives, drops = select_positives(batch, "both", exclude_sources, drop_truncated)
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
    """Shuffles and halves the problems with a negative; `place` is the place of each row in the shuffled corpus."""
    order = sorted(paired, key=place.__getitem__)
    random.Random(SPLIT_SEED).shuffle(order)
    middle = len(order) // 2
    return Halves(order[:middle], order[middle:], sorted(single, key=place.__getitem__))


def equal_size(main: list[int], inverted: list[int]) -> tuple[list[int], list[int]]:
    """Samples the larger list down to the size of the smaller, which also changes its order."""
    size = min(len(main), len(inverted))
    main, inverted = (
        random.Random(SPLIT_SEED).sample(problems, size) if len(problems) > size else problems
        for problems in (main, inverted)
    )
    return main, inverted


def count_pair_lengths(pairs: Path, tokenizer: "PreTrainedTokenizerBase", num_rows: int) -> PairLengths:
    """The lengths of the stored pairs, counted as the original's ablation does.

    A response counts as its bare text, plus 1 for the eos token. The prompt's length, which nothing depends on, is
    that of its turn alone through the chat template, plus 1.
    """

    def texts(name: str) -> Iterator[str]:
        with tqdm(total=len(index), desc=f"counting tokens, {name}", unit=" pairs", disable=None) as progress:
            for batch in _read(pairs):
                yield from response_texts(pa.chunked_array([batch[name]])).to_pylist()
                progress.update(len(batch))

    index = np.concatenate([batch["original_index"].to_numpy() for batch in _read(pairs)])
    prompts = [prompt for batch in _read(pairs) for prompt in batch["prompt"].to_pylist()]
    lengths = {name: np.zeros(num_rows, dtype=np.int64) for name in ("prompt_len", "chosen_len", "rejected_len")}
    lengths["prompt_len"][index] = turn_lengths(tokenizer, "user", prompts)
    for name in ("chosen", "rejected"):
        lengths[f"{name}_len"][index] = count_tokens(tokenizer, texts(name)) + 1
    return lengths


def within(problems: list[int], lengths: PairLengths, max_response_tokens: int) -> list[int]:
    """The problems with both responses within the inclusive limit."""
    longest = np.maximum(lengths["chosen_len"], lengths["rejected_len"])
    return [problem for problem in problems if longest[problem] <= max_response_tokens]


def write_sft(stored: Stored, halves: Halves, num_rows: int, folder: Path) -> dict[str, int]:
    """Writes the set `sft` with the columns of positives and `sft_source`; returns its rows by file."""
    order = [*halves.first, *halves.second, *halves.rest]
    return _write(stored.traces.counting(_sft_batches(stored, halves)), order, num_rows, folder)


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
    stored: Stored, problems: list[int], lengths: PairLengths, num_rows: int, folder: Path, inverted: bool
) -> dict[str, int]:
    """Writes pairs of `problems`, in this order and with the columns of pairs; returns their rows by file.

    Args:
        lengths: written as columns, if there are any.
        inverted: the negative is chosen.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _only(stored.pairs, problems):
            for name, of_row in lengths.items():
                batch = batch.append_column(name, pa.array(of_row[batch["original_index"].to_numpy()]))
            names = batch.schema.names
            yield pa.record_batch([batch[SWAPPED.get(n, n) if inverted else n] for n in names], names=names)

    return _write(stored.traces.counting(batches()), problems, num_rows, folder)


def _write(batches: Iterator[pa.RecordBatch], order: list[int], num_rows: int, folder: Path) -> dict[str, int]:
    place = places_of(np.array(order, dtype=np.int64), num_rows)
    return write_shards(ordered(batches, place, folder), folder)
