"""Builds positives and pairs: a corpus is selected from, shuffled, filtered by length and written as a dataset."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import already_done, check_expected, count_table, is_done, new_dataset
from redi.data.lengths.dataset_lengths import NO_SOURCE, DatasetLengths, built_lengths, joined
from redi.data.lengths.length_rules import DEFAULT_LIMITS, filter_by_length, load_counting_tokenizer
from redi.data.reading.rows import Corpus, open_corpus, pinned_input
from redi.data.selection import excluded_sources, select_pairs, select_positives
from redi.data.shuffle import ordered, shuffled_places, write_shards
from redi.data.streams import prefetch, tap
from redi.runs.errors import UsageError

# Rows -> those it gives, and how many were dropped for which reason.
Step = Callable[..., tuple[pa.RecordBatch | pa.Table, Counter[str]]]

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
    return build(source, output, POSITIVES[rule], {"rule": rule}, partial(select_positives, rule=rule), **options)


def build_pairs(
    source: str, output: Path, *, negatives: str = "not-both", tokenizer: str | None = None, **options: Any
) -> str:
    """Builds the pairs of stage 2, as `build`; `redi.data.selection.select_pairs` has the rule.

    With a tokenizer, pairs over a limit are dropped: `redi.data.lengths.length_rules.filter_by_length`. The options
    may hold those of `DEFAULT_LIMITS`, None by default.
    """
    given = {name: options.pop(name, None) for name in DEFAULT_LIMITS}
    limits = {name: value for name, value in given.items() if value is not None}
    if limits and tokenizer is None:
        option = f"--{next(iter(limits)).replace('_', '-')}"
        raise UsageError(f"{option} needs a tokenizer to count with; pass --tokenizer with the base model")
    options |= {"tokenizer": tokenizer, "limits": DEFAULT_LIMITS | limits if tokenizer is not None else {}}
    select = partial(select_pairs, negatives=negatives)
    return build(source, output, PAIRS[negatives], {"negatives": negatives}, select, **options)


def build(
    source: str,
    output: Path,
    summary: str,
    config: dict[str, Any],
    select: Step,
    *,
    tokenizer: str | None = None,
    limits: dict[str, Any] | None = None,
    revision: str | None = None,
    exclude_source: list[str] | None = None,
    truncated: str = "keep",
    seed: int = 42,
    expect_rows: int | None = None,
    overwrite: bool = False,
) -> str:
    """Selects from a corpus, shuffles, filters, and writes parquet shards, a card and `manifest.json` to `output`.

    Nothing is done if the same options on the same inputs are finished already, unless `overwrite` is given. A build
    that fails leaves nothing behind. Returns the table of counts.

    Args:
        source, revision: the corpus, as in `redi.data.reading.rows.pinned_input`.
        summary: what the rows are, for the card.
        config: the options of `select`, which takes a batch of the corpus.
        tokenizer, limits: drops the pairs over the limits, of `DEFAULT_LIMITS`.
        exclude_source: sources to drop, cn_k12 by default.
        truncated: "drop" never selects a trace that was cut at the token limit.

    Raises:
        UsageError: an input or output is unfit, no rows come out, or not `expect_rows` of them.
    """
    sources = excluded_sources(exclude_source)
    config = config | {"exclude_source": sources, "truncated": truncated, "seed": seed} | (limits or {})
    inputs = {"corpus": pinned_input(source, revision)} | ({"tokenizer": tokenizer} if tokenizer else {})
    if is_done(output, config, inputs, overwrite):
        return already_done(output, expect_rows)
    with new_dataset(output, config, inputs, overwrite) as new:
        corpus, filter_rows = open_corpus(inputs["corpus"]), None
        if tokenizer is not None:
            loaded = load_counting_tokenizer(tokenizer, limits["length_rule"])
            filter_rows = partial(filter_by_length, tokenizer=loaded, **limits)
        select = partial(select, exclude_sources=sources, drop_truncated=truncated == "drop")
        counts, lengths = _write_rows(new.folder, corpus, seed, select, filter_rows)
        if lengths is None:
            drops = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items() if count)
            why = f"dropped: {drops}" if drops else "it has none to begin with"
            raise UsageError(f"--input {inputs['corpus']}: no rows are left; {why}")
        check_truncated(config, inputs["corpus"], "truncated" in counts)
        check_expected(expect_rows, counts["rows"])
        new.finish(counts, summary, lengths=lengths)
    return count_table(counts)


def check_truncated(config: dict[str, Any], source: str, is_known: bool) -> None:
    """Raises a `UsageError` if truncated traces are to be dropped, but it is not known which they are."""
    if config["truncated"] == "drop" and not is_known:
        raise UsageError(f"--truncated drop: {source} has no finish_reasons, so no trace is known to be")


def _write_rows(
    folder: Path, corpus: Corpus, seed: int, select: Step, filter_rows: Step | None
) -> tuple[dict[str, Any], DatasetLengths | None]:
    """Writes the shards; returns the counts, and the lengths of the rows if there are any."""
    dropped, sources, reasons, cut, parts = Counter(), Counter(), Counter(), Counter(), []

    def note(batch: pa.RecordBatch) -> None:
        sources.update(pc.fill_null(batch["source"], NO_SOURCE).to_pylist())
        reasons["known"] += with_reasons(batch)

    selected = map(select, tap(prefetch(corpus.batches, 2), note))
    rows = ordered(_counting(selected, dropped), shuffled_places(corpus.num_rows, seed), folder)
    if filter_rows is not None:
        rows = _counting(map(filter_rows, rows), dropped)
    written = tap(counting_cut(prefetch(rows), cut), lambda table: parts.append(built_lengths(table)))
    files = write_shards(written, folder)
    counts = {"input_rows": corpus.num_rows, "dropped": dict(dropped), "rows": sum(files.values()), "files": files}
    assert counts["input_rows"] == dropped.total() + counts["rows"]
    if not files:
        return counts, None
    counts |= {"truncated": dict(cut)} if reasons["known"] else {}
    lengths = joined(parts)
    kept = Counter(lengths.sources.tolist())
    counts["sources"] = {name: {"input": count, "kept": kept[name]} for name, count in sources.most_common()}
    return counts, lengths


def _counting(results: Iterable[tuple[Any, Counter[str]]], total: Counter[str]) -> Iterator[Any]:
    """Passes on the rows of each result and adds its drops to `total`."""
    for rows, drops in results:
        total.update(drops)
        yield rows


def with_reasons(batch: pa.RecordBatch) -> int:
    """The number of rows of a batch of the corpus that have finish reasons."""
    return len(batch) - batch["finish_reasons"].null_count


def counting_cut(tables: Iterable[pa.Table], total: Counter[str]) -> Iterator[pa.Table]:
    """Passes on selected rows without `chosen_cut` and `rejected_cut`, and adds these to `total`."""
    for table in tables:
        flags = [name for name in table.column_names if name.endswith("_cut")]
        total.update({name.removesuffix("_cut"): pc.sum(table[name]).as_py() or 0 for name in flags})
        yield table.drop_columns(flags)
