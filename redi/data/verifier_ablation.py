"""Builds the verifier ablation: the same training data with the verdicts inverted for half of the problems.

As the original's `data_preprocess/ablation_verifier_signal.py`, at
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
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.build import check_truncated, counting_cut, with_reasons
from redi.data.dataset_folder import already_done, check_expected, count_table, is_done, new_dataset, write_parent_card
from redi.data.lengths import length_rules
from redi.data.reading.rows import open_corpus, pinned_input
from redi.data.selection import excluded_sources, select_pairs, select_positives
from redi.data.shuffle import ordered, places_of, shuffled_places, write_shards
from redi.runs.errors import UsageError

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
SWAPPED = {f"chosen{end}": f"rejected{end}" for end in ("", "_gen_idx", "_len", "_cut")}
SWAPPED |= {rejected: chosen for chosen, rejected in SWAPPED.items()}
# Arrow batches in the order of the corpus, which exist while the sets are written.
PAIRS = "pairs.arrow"  # the positive (`chosen`) and negative (`rejected`) of the problems that have both
POSITIVES = "positives.arrow"  # the positives of the problems that have no negative


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
        tokenizer: drops pairs with a longer response than `max_response_tokens` (inclusive, the bare text plus 1).
        expect_rows: the number of rows that all three sets must have together.
        source, output, revision, exclude_source, truncated, seed, overwrite: as in `redi.data.build.build`.
    """
    config = {"exclude_source": excluded_sources(exclude_source), "truncated": truncated, "seed": seed}
    config["split_seed"] = SPLIT_SEED
    inputs = {"corpus": pinned_input(source, revision)}
    if tokenizer is not None:
        config["max_response_tokens"] = (
            length_rules.MAX_RESPONSE_TOKENS if max_response_tokens is None else max_response_tokens
        )
        inputs["tokenizer"] = tokenizer
    elif max_response_tokens is not None:
        raise UsageError("--max-response-tokens needs a tokenizer to count with; pass --tokenizer with the base model")
    if is_done(output, config, inputs, overwrite):
        return already_done(output, expect_rows)
    with new_dataset(output, config, inputs, overwrite) as new:
        loaded = length_rules.load_counting_tokenizer(tokenizer) if tokenizer is not None else None
        corpus = open_corpus(inputs["corpus"])
        number, dropped, is_known = _store(corpus.batches, new.folder, config, loaded)
        check_truncated(config, inputs["corpus"], is_known)
        if number < 2:
            raise UsageError(
                f"--input {inputs['corpus']}: {number} problems have a positive and a negative; at least two are "
                "needed, one for each half"
            )
        place = shuffled_places(corpus.num_rows, seed)
        counts = _write_sets(new.folder, place, dropped, config.get("max_response_tokens"), is_known)
        check_expected(expect_rows, counts["rows"])
        for name, of_set in counts["sets"].items():
            new.finish(of_set, SUMMARIES[name], part=name)
        write_parent_card(new.folder, output.resolve().name, SUMMARIES)
        new.finish(counts)
    return "\n\n".join(f"{output / name}\n{count_table(of_set)}" for name, of_set in counts["sets"].items())


def _store(
    batches: Iterable[pa.RecordBatch],
    folder: Path,
    config: dict[str, Any],
    tokenizer: "PreTrainedTokenizerBase | None",
) -> tuple[int, Counter[str], bool]:
    """Writes the two files; returns the pairs, the rows that are in neither, and whether any has finish reasons."""
    options = {"exclude_sources": config["exclude_source"], "drop_truncated": config["truncated"] == "drop"}
    number, known, dropped, writers = 0, 0, Counter(), []
    with ExitStack() as stack:
        for batch in batches:
            pairs, _ = select_pairs(batch, negatives="neither", **options)
            positives, drops = select_positives(batch, rule="both", **options)
            single = pc.invert(pc.is_in(positives["original_index"], value_set=pairs["original_index"]))
            parts = {PAIRS: pairs if tokenizer is None else _with_lengths(pairs, tokenizer)}
            parts[POSITIVES] = positives.filter(single)
            number += len(pairs)
            dropped.update(drops)
            known += with_reasons(batch)
            if not writers:
                files = [pa.ipc.new_stream(str(folder / name), part.schema) for name, part in parts.items()]
                writers = list(map(stack.enter_context, files))
            for writer, part in zip(writers, parts.values(), strict=True):
                writer.write_batch(part)
    return number, dropped, known > 0


def _with_lengths(pairs: pa.RecordBatch, tokenizer: "PreTrainedTokenizerBase") -> pa.RecordBatch:
    """Adds the lengths that the original's ablation counts: of a response its bare text, plus 1 for the eos token.

    The prompt's length, which nothing depends on, is that of its turn alone through the chat template, plus 1.
    """
    pairs = pairs.append_column(
        "prompt_len", pa.array(length_rules.turn_lengths(tokenizer, "user", pairs["prompt"].to_pylist()))
    )
    for name in ("chosen", "rejected"):
        texts = length_rules.response_texts(pairs[name]).to_pylist()
        pairs = pairs.append_column(f"{name}_len", pa.array(length_rules.count_tokens(tokenizer, texts) + 1))
    return pairs


def _write_sets(
    folder: Path, place: np.ndarray, dropped: Counter[str], limit: int | None, cut_is_known: bool
) -> dict[str, Any]:
    """Writes the sets from the two files, which it removes; `place` is that of each row in the shuffled corpus."""
    maps = (pa.memory_map(str(folder / name)) for name in (PAIRS, POSITIVES))  # the texts are not in memory
    pairs, positives = (pa.ipc.open_stream(file).read_all() for file in maps)
    paired, single = (table["original_index"].to_numpy() for table in (pairs, positives))
    fitting = set(paired.tolist())
    if limit is not None:
        longest = np.maximum(pairs["chosen_len"].to_numpy(), pairs["rejected_len"].to_numpy())
        fitting = set(paired[longest <= limit].tolist())
    order = paired[np.argsort(place[paired])].tolist()
    random.Random(SPLIT_SEED).shuffle(order)
    halves = {"main": order[: len(order) // 2], "inverted": order[len(order) // 2 :]}
    kept = {name: [problem for problem in half if problem in fitting] for name, half in halves.items()}
    size = min(map(len, kept.values()))
    if size == 0:
        numbers = " and ".join(f"{len(fits)} pairs of half {n}" for n, fits in enumerate(kept.values(), 1))
        raise UsageError(f"--max-response-tokens leaves {numbers}; raise it")

    def write(name: str, batches: Iterator[pa.RecordBatch], problems: list[int], **counts: Any) -> dict[str, Any]:
        (folder / name).mkdir()
        cut, of_row = Counter(), places_of(np.array(problems, dtype=np.int64), len(place))
        files = write_shards(counting_cut(ordered(batches, of_row, folder / name), cut), folder / name)
        counts |= {"rows": sum(files.values()), "files": files}
        return counts | ({"truncated": dict(cut)} if cut_is_known else {})

    problems = [*order, *single[np.argsort(place[single])].tolist()]
    batches = _sft_batches(pairs, positives, *halves.values())
    sets = {"sft": write("sft", batches, problems, input_rows=len(place), dropped=dict(dropped))}
    for name, fits in kept.items():
        # Sampling also changes the order, so a half that is small enough is left as it is.
        problems = random.Random(SPLIT_SEED).sample(fits, size) if len(fits) > size else fits
        drops = {length_rules.RESPONSE_TOO_LONG: len(halves[name]) - len(fits), SAMPLED_DOWN: len(fits) - size}
        renamed = [SWAPPED.get(n, n) if name == "inverted" else n for n in pairs.column_names]
        batches = (batch.select(renamed).rename_columns(pairs.column_names) for batch in _of(pairs, problems))
        sets[name] = write(name, batches, problems, input_rows=len(halves[name]), dropped=drops)
    for name in (PAIRS, POSITIVES):
        (folder / name).unlink()
    numbers = zip(("half 1", "half 2", "without negative"), (*halves.values(), single), strict=True)
    return {
        "rows": sum(of_set["rows"] for of_set in sets.values()),
        "problems": {name: len(problems) for name, problems in numbers},
        "sets": sets,
        "files": {f"{name}/{file}": n for name, of_set in sets.items() for file, n in of_set["files"].items()},
    }


def _of(pairs: pa.Table, problems: list[int]) -> Iterator[pa.RecordBatch]:
    """The pairs of some problems."""
    wanted = pa.array(problems, pa.int64())
    return (batch.filter(pc.is_in(batch["original_index"], value_set=wanted)) for batch in pairs.to_batches())


def _sft_batches(
    pairs: pa.Table, positives: pa.Table, first: list[int], second: list[int]
) -> Iterator[pa.RecordBatch]:
    """The positives of `first`, the negatives of `second` and the other positives, with the column `sft_source`."""
    for problems, role, name in ((first, "chosen", "group1_correct"), (second, "rejected", "group2_incorrect")):
        for batch in _of(pairs, problems):
            columns = {"messages": batch[role], "chosen_gen_idx": batch[f"{role}_gen_idx"]}
            columns |= {column: batch[column] for column in ("source", "uuid", "original_index")}
            columns |= {"chosen_cut": batch[f"{role}_cut"], "sft_source": pa.repeat(pa.scalar(name), len(batch))}
            yield pa.record_batch(columns)
    for batch in positives.to_batches():
        yield batch.append_column("sft_source", pa.repeat(pa.scalar("typeB_correct"), len(batch)))
