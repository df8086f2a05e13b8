"""Builds positives and pairs: a corpus is selected from, shuffled, filtered by length and written as a dataset."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import NewDataset, count_table, is_done, new_dataset
from redi.data.lengths.dataset_lengths import NO_SOURCE, built_lengths, joined
from redi.data.lengths.length_rules import DEFAULT_LIMITS, counting_options, filter_by_length, load_counting_tokenizer
from redi.data.reading.rows import Corpus, open_corpus, pinned_input
from redi.data.selection import select_pairs, select_positives
from redi.data.shuffle import ordered, shuffled_places, write_shards
from redi.data.streams import prefetch
from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.text.encoding import Tokenizer

# A batch of the corpus -> the selected rows, and how many were dropped for which reason.
Select = Callable[..., tuple[pa.RecordBatch, Counter[str]]]
# Writes and finishes a dataset; returns the number of its rows, and its counts as text.
Write = Callable[[NewDataset, Corpus, Tokenizer | None], tuple[int, str]]

POSITIVES = {
    "both": "Problems with their first trace that both verifiers accept.",
    "either": "Problems with their first trace that both verifiers accept, or else their first that one accepts.",
}
PAIRS = {
    "not-both": "Pairs of each problem's first trace that both verifiers accept, and its first that not both accept.",
    "neither": "Pairs of each problem's first trace that both verifiers accept, and its first that neither accepts.",
}


def build_positives(source: str, output: Path, *, rule: str = "both", **options: Any) -> str:
    """Builds the positives of stage 1, as `build`; `redi.data.selection.select_positives` has the rule."""
    write = partial(_write_rows, select=partial(select_positives, rule=rule), summary=POSITIVES[rule])
    return build(source, output, {"rule": rule}, write, **options)


def build_pairs(
    source: str,
    output: Path,
    *,
    negatives: str = "not-both",
    tokenizer: str | None = None,
    length_rule: str | None = None,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    **options: Any,
) -> str:
    """Builds the pairs of stage 2, as `build`; `redi.data.selection.select_pairs` has the rule.

    With a tokenizer, pairs over a limit are dropped: `redi.data.lengths.length_rules.filter_by_length`.
    """
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    counting = counting_options(tokenizer, length_rule=length_rule, **limits)
    write = partial(_write_rows, select=partial(select_pairs, negatives=negatives), summary=PAIRS[negatives])
    return build(source, output, {"negatives": negatives}, write, tokenizer=tokenizer, counting=counting, **options)


def build(
    source: str,
    output: Path,
    config: dict[str, Any],
    write: Write,
    *,
    tokenizer: str | None = None,
    counting: dict[str, Any] | None = None,
    revision: str | None = None,
    exclude_source: list[str] | None = None,
    truncated: str = "keep",
    seed: int = 42,
    expect_rows: int | None = None,
    overwrite: bool = False,
) -> str:
    """Makes a dataset of a corpus, whose rows `write` selects, shuffles and writes; returns the table of counts.

    The corpus is as in `redi.data.reading.rows.pinned_input`; `config` and `counting`, of the length filter, are the
    options of `write`. Nothing is done if the same options on the same inputs are finished, unless `overwrite` is
    given. A build that fails leaves nothing behind.

    Raises:
        UsageError: an input or output is unfit, no rows come out, or not `expect_rows` of them.
    """
    sources = ["cn_k12"] if exclude_source is None else sorted(set(exclude_source))
    config = config | {"exclude_source": sources, "truncated": truncated, "seed": seed} | (counting or {})
    inputs = {"corpus": pinned_input(source, revision)} | ({"tokenizer": tokenizer} if tokenizer else {})
    if is_done(output, config, inputs, overwrite):
        num_rows = read_manifest(output, "counts.rows")["counts"]["rows"]
        _check_expected(expect_rows, num_rows)
        return f"{output}: already done, {num_rows} rows"
    with new_dataset(output, config, inputs, overwrite) as new:
        corpus = open_corpus(inputs["corpus"])
        loaded = load_counting_tokenizer(tokenizer, config.get("length_rule", "paper")) if tokenizer else None
        num_rows, text = write(new, corpus, loaded)
        _check_expected(expect_rows, num_rows)
    return text


def _check_expected(expected: int | None, num_rows: int) -> None:
    if expected is not None and num_rows != expected:
        raise UsageError(f"--expect-rows {expected}: the result has {num_rows} rows")


@dataclass
class Tally:
    """What a build counts while it reads."""

    dropped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    sources: Counter[str] = field(default_factory=Counter)  # of the corpus
    has_reasons: bool = False  # whether any row of the corpus has finish reasons


def selected_rows(new: NewDataset, corpus: Corpus, select: Select, tally: Tally) -> Iterator[pa.Table]:
    """The selected rows of a corpus in shuffled order, counted; dropping truncated traces needs finish reasons."""
    drop_truncated = new.config["truncated"] == "drop"
    options = {"exclude_sources": new.config["exclude_source"], "drop_truncated": drop_truncated}

    def selected() -> Iterator[pa.RecordBatch]:
        for batch in prefetch(corpus.batches, 2):
            tally.sources.update(pc.fill_null(batch["source"], NO_SOURCE).to_pylist())
            tally.has_reasons |= batch["finish_reasons"].null_count < len(batch)
            rows, dropped = select(batch, **options)
            tally.dropped.update(dropped)
            yield rows

    yield from ordered(selected(), shuffled_places(corpus.num_rows, new.config["seed"]), new.folder)
    if drop_truncated and not tally.has_reasons:
        source = new.inputs["corpus"]
        raise UsageError(f"--truncated drop: {source} has no finish_reasons, so no trace is known to be")


def take_cut(table: pa.Table, total: Counter[str]) -> pa.Table:
    """Selected rows without `chosen_cut` and `rejected_cut`, which are added to `total`."""
    flags = [name for name in table.column_names if name.endswith("_cut")]
    total.update({name.removesuffix("_cut"): pc.sum(table[name]).as_py() or 0 for name in flags})
    return table.drop_columns(flags)


def _write_rows(
    new: NewDataset, corpus: Corpus, tokenizer: Tokenizer | None, select: Select, summary: str
) -> tuple[int, str]:
    tally, cut, lengths = Tally(), Counter(), []

    def filtered() -> Iterator[pa.Table]:
        for table in selected_rows(new, corpus, select, tally):
            if tokenizer is not None:
                table, dropped = filter_by_length(table, tokenizer, *(new.config[name] for name in DEFAULT_LIMITS))
                tally.dropped.update(dropped)
            yield table

    def finished() -> Iterator[pa.Table]:
        for table in prefetch(filtered()):
            lengths.append(built_lengths(table))
            yield take_cut(table, cut)

    files = write_shards(finished(), new.folder)
    dropped, num_rows = dict(tally.dropped), sum(files.values())
    if not files:
        drops = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        why = f"dropped: {drops}" if drops else "it has none to begin with"
        raise UsageError(f"--input {new.inputs['corpus']}: no rows are left; {why}")
    assert corpus.num_rows == tally.dropped.total() + num_rows
    counts = {"input_rows": corpus.num_rows, "dropped": dropped, "rows": num_rows, "files": files}
    counts |= {"truncated": dict(cut)} if tally.has_reasons else {}
    of_all = joined(lengths)
    kept, sources = Counter(of_all.sources.tolist()), tally.sources.most_common()
    counts["sources"] = {name: {"input": count, "kept": kept[name]} for name, count in sources}
    new.finish(counts, summary, lengths=of_all)
    return num_rows, count_table(counts)
