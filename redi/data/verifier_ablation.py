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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
from redi.data.reading.rows import open_corpus, pinned_input
from redi.data.selection import excluded_sources, select_pairs, select_positives
from redi.data.shuffle import ordered, places_of, shuffled_places, write_shards
from redi.data.truncation import TruncatedTraces
from redi.runs.errors import UsageError
from redi.runs.files import new_folder
from redi.runs.manifest import write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT_SEED = 123
SAMPLED_DOWN = "sampled down"
SUMMARIES = {
    "sft": "Traces for stage 1: accepted ones of half of the problems, rejected ones of the other half, and accepted "
    "ones of the problems without a rejected one.",
    "main": "Pairs of the first half of the problems: chosen is a trace that both verifiers accept.",
    "inverted": "Pairs of the second half of the problems: chosen is a trace that neither verifier accepts.",
}
SWAPPED = {f"chosen{end}": f"rejected{end}" for end in ("", "_gen_idx", "_len")}
SWAPPED |= {rejected: chosen for chosen, rejected in SWAPPED.items()}


@dataclass(frozen=True)
class Stored:
    """The selected rows, in two files of Arrow batches in the order of the corpus.

    Attributes:
        pairs: file with the positive (`chosen`) and negative (`rejected`) of the problems that have both.
        positives: file with the positives of the problems that have no negative.
        paired, single: the problems in these files.
        fitting: those of `paired` with both responses within the limit.
        dropped: the other rows of the corpus, by reason.
        traces: which traces were cut.
    """

    pairs: Path
    positives: Path
    paired: list[int] = field(default_factory=list)
    single: list[int] = field(default_factory=list)
    fitting: set[int] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    traces: TruncatedTraces = field(default_factory=TruncatedTraces)


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
    started = time.time()
    loaded = load_counting_tokenizer(tokenizer) if tokenizer is not None else None
    corpus = open_corpus(inputs["corpus"])
    with new_folder(output, overwrite, inputs.values()) as folder:
        stored = store(corpus.batches, folder, config, loaded)
        if truncated == "drop" and not stored.traces.counts():
            raise UsageError(f"--truncated drop: {inputs['corpus']} has no finish_reasons, so no trace is known to be")
        if len(stored.paired) < 2:
            raise UsageError(
                f"--input {inputs['corpus']}: {len(stored.paired)} problems have a positive and a negative; "
                "at least two are needed, one for each half"
            )
        counts = write_sets(stored, shuffled_places(corpus.num_rows, seed), folder)
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
        write_manifest(folder, config=config, counts=counts, seed=seed, **about)
    return "\n\n".join(f"{output / name}\n{count_table(of_set)}" for name, of_set in counts["sets"].items())


def store(
    batches: Iterable[pa.RecordBatch],
    folder: Path,
    config: dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Stored:
    """Selects from a corpus, read once, and writes the two files into `folder`."""
    stored = Stored(folder / "pairs.arrow", folder / "positives.arrow")
    sources, drop = config["exclude_source"], config["truncated"] == "drop"
    writers: list[pa.RecordBatchWriter] = []
    with ExitStack() as stack:
        for batch in stored.traces.noting(batches):
            pairs, _ = select_pairs(batch, sources, "neither", drop)
            positives, drops = select_positives(batch, "both", sources, drop)
            stored.dropped.update(drops)
            positives = positives.filter(pc.invert(_is_one_of(positives, pairs["original_index"])))
            fits = np.ones(len(pairs), dtype=bool)
            if tokenizer is not None:
                pairs = _with_lengths(pairs, tokenizer)
                longest = np.maximum(pairs["chosen_len"].to_numpy(), pairs["rejected_len"].to_numpy())
                fits = longest <= config["max_response_tokens"]
            stored.fitting.update(pairs["original_index"].to_numpy()[fits].tolist())
            if not writers:
                files = {stored.pairs: pairs.schema, stored.positives: positives.schema}
                writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema)) for path, schema in files.items()]
            for writer, part, found in zip(writers, (pairs, positives), (stored.paired, stored.single), strict=True):
                writer.write_batch(part)
                found += part["original_index"].to_pylist()
    return stored


def _with_lengths(pairs: pa.RecordBatch, tokenizer: "PreTrainedTokenizerBase") -> pa.RecordBatch:
    """Adds the lengths that the original's ablation counts: of a response its bare text, plus 1 for the eos token.

    The prompt's length, which nothing depends on, is that of its turn alone through the chat template, plus 1.
    """
    pairs = pairs.append_column("prompt_len", pa.array(turn_lengths(tokenizer, "user", pairs["prompt"].to_pylist())))
    for name in ("chosen", "rejected"):
        texts = response_texts(pa.chunked_array([pairs[name]])).to_pylist()
        pairs = pairs.append_column(f"{name}_len", pa.array(count_tokens(tokenizer, texts) + 1))
    return pairs


def _is_one_of(batch: pa.RecordBatch, problems: pa.Array) -> pa.BooleanArray:
    return pc.is_in(batch["original_index"], value_set=problems)


def _read(path: Path, problems: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, all or those of some problems."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield batch if problems is None else batch.filter(_is_one_of(batch, pa.array(problems, pa.int64())))


def write_sets(stored: Stored, place: np.ndarray, folder: Path) -> dict[str, Any]:
    """Writes the three sets into folders of their names.

    Args:
        stored: the selected rows.
        place: of each row in the shuffled corpus, `(rows,)`.
        folder: of the sets.

    Returns:
        The counts for the manifest.
    """
    order = sorted(stored.paired, key=place.__getitem__)
    random.Random(SPLIT_SEED).shuffle(order)
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    rest = sorted(stored.single, key=place.__getitem__)
    fitting = {
        name: [problem for problem in half if problem in stored.fitting]
        for name, half in (("main", first), ("inverted", second))
    }
    size = min(map(len, fitting.values()))
    if size == 0:
        numbers = " and ".join(f"{len(fits)} pairs of half {n}" for n, fits in enumerate(fitting.values(), 1))
        raise UsageError(f"--max-response-tokens leaves {numbers}; raise it")

    def write(name: str, batches: Iterator[pa.RecordBatch], problems: list[int], **counts: Any) -> dict[str, Any]:
        (folder / name).mkdir()
        of_row = places_of(np.array(problems, dtype=np.int64), len(place))
        files = write_shards(ordered(stored.traces.counting(batches), of_row, folder / name), folder / name)
        return counts | {"rows": sum(files.values()), "files": files} | stored.traces.counts()

    dropped = dict(stored.dropped)
    batches = _sft_batches(stored, first, second)
    sets = {"sft": write("sft", batches, [*first, *second, *rest], input_rows=len(place), dropped=dropped)}
    for (name, fits), half in zip(fitting.items(), (first, second), strict=True):
        # Sampling also changes the order, so a half that is small enough is left as it is.
        problems = random.Random(SPLIT_SEED).sample(fits, size) if len(fits) > size else fits
        dropped = {RESPONSE_TOO_LONG: len(half) - len(fits), SAMPLED_DOWN: len(fits) - size}
        batches = _pair_batches(stored, problems, inverted=name == "inverted")
        sets[name] = write(name, batches, problems, input_rows=len(half), dropped=dropped)
    return {
        "rows": sum(of_set["rows"] for of_set in sets.values()),
        "problems": {"half 1": len(first), "half 2": len(second), "without negative": len(rest)},
        "sets": sets,
        "files": {f"{name}/{file}": n for name, of_set in sets.items() for file, n in of_set["files"].items()},
    }


def _sft_batches(stored: Stored, first: list[int], second: list[int]) -> Iterator[pa.RecordBatch]:
    """The positives of `first`, the negatives of `second` and the other positives, with the column `sft_source`."""
    for problems, role, name in ((first, "chosen", "group1_correct"), (second, "rejected", "group2_incorrect")):
        for batch in _read(stored.pairs, problems):
            columns = {"messages": batch[role], "chosen_gen_idx": batch[f"{role}_gen_idx"]}
            columns |= {column: batch[column] for column in ("source", "uuid", "original_index")}
            yield pa.record_batch(columns | {"sft_source": pa.repeat(pa.scalar(name), len(batch))})
    for batch in _read(stored.positives):
        yield batch.append_column("sft_source", pa.repeat(pa.scalar("typeB_correct"), len(batch)))


def _pair_batches(stored: Stored, problems: list[int], inverted: bool) -> Iterator[pa.RecordBatch]:
    for batch in _read(stored.pairs, problems):
        names = batch.schema.names
        yield pa.record_batch([batch[SWAPPED.get(n, n) if inverted else n] for n in names], names=names)
