"""Builds positives and pairs: a corpus is selected from, shuffled, filtered by length and written as a dataset."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_folder import (
    already_done,
    check_expected,
    count_table,
    is_complete,
    refuse_output_over_input,
    write_card_and_manifest,
)
from redi.data.lengths.dataset_lengths import NO_SOURCE, DatasetLengths, LengthRecorder
from redi.data.lengths.length_filter import MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS, filter_by_length
from redi.data.lengths.length_rules import load_counting_tokenizer
from redi.data.reading.rows import Corpus, open_corpus, pinned_input
from redi.data.streams import prefetch
from redi.data.selection import excluded_sources, select_pairs, select_positives
from redi.data.shuffle import ordered, shuffled_places, write_shards
from redi.data.truncation import TruncatedTraces
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, new_folder

Select = Callable[[pa.RecordBatch], tuple[pa.RecordBatch, Counter[str]]]
Filter = Callable[[pa.Table], tuple[pa.Table, Counter[str]]]

POSITIVES = {
    "both": "Problems with their first trace that both verifiers accept.",
    "either": "Problems with their first trace that both verifiers accept, or else their first that one accepts.",
}
PAIRS = {
    "not-both": "Pairs of each problem's first trace that both verifiers accept, and its first that not both accept.",
    "neither": "Pairs of each problem's first trace that both verifiers accept, and its first that neither accepts.",
}
DEFAULT_LIMITS = {
    "length_rule": "paper",
    "max_prompt_tokens": MAX_PROMPT_TOKENS,
    "max_response_tokens": MAX_RESPONSE_TOKENS,
}


def build_positives(
    source: str,
    output: Path,
    *,
    rule: str = "both",
    revision: str | None = None,
    exclude_source: list[str] | None = None,
    truncated: str = "keep",
    seed: int = 42,
    expect_rows: int | None = None,
    overwrite: bool = False,
) -> str:
    """Builds the positives of stage 1, as `build`; `redi.data.selection.select_positives` has the rule."""
    sources = excluded_sources(exclude_source)
    config = {"rule": rule, "exclude_source": sources, "truncated": truncated, "seed": seed}
    inputs = {"corpus": pinned_input(source, revision)}
    select = partial(select_positives, rule=rule, exclude_sources=sources, drop_truncated=truncated == "drop")
    return build(output, POSITIVES[rule], config, inputs, select, None, expect_rows, overwrite)


def build_pairs(
    source: str,
    output: Path,
    *,
    negatives: str = "not-both",
    tokenizer: str | None = None,
    length_rule: str | None = None,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    revision: str | None = None,
    exclude_source: list[str] | None = None,
    truncated: str = "keep",
    seed: int = 42,
    expect_rows: int | None = None,
    overwrite: bool = False,
) -> str:
    """Builds the pairs of stage 2, as `build`; `redi.data.selection.select_pairs` has the rule.

    With a tokenizer, pairs over a limit are dropped: `redi.data.lengths.length_filter.filter_by_length`.
    """
    sources = excluded_sources(exclude_source)
    config = {"negatives": negatives, "exclude_source": sources, "truncated": truncated, "seed": seed}
    inputs = {"corpus": pinned_input(source, revision)}
    load_filter = None
    limits = {
        "length_rule": length_rule,
        "max_prompt_tokens": max_prompt_tokens,
        "max_response_tokens": max_response_tokens,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    if tokenizer is not None:
        config |= DEFAULT_LIMITS | given
        inputs["tokenizer"] = tokenizer
        load_filter = partial(_load_length_filter, tokenizer, **DEFAULT_LIMITS | given)
    elif given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise UsageError(f"{option} needs a tokenizer to count with; pass --tokenizer with the base model")
    select = partial(select_pairs, exclude_sources=sources, negatives=negatives, drop_truncated=truncated == "drop")
    return build(output, PAIRS[negatives], config, inputs, select, load_filter, expect_rows, overwrite)


def _load_length_filter(tokenizer: str, length_rule: str, **limits: int) -> Filter:
    loaded = load_counting_tokenizer(tokenizer, length_rule)
    return partial(filter_by_length, tokenizer=loaded, rule=length_rule, **limits)


def build(
    output: Path,
    summary: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    select: Select,
    load_filter: Callable[[], Filter] | None,
    expect_rows: int | None,
    overwrite: bool,
) -> str:
    """Selects from a corpus, shuffles, filters, and writes parquet shards, a card and `manifest.json` to `output`.

    Nothing is done if the same options on the same inputs are finished already, unless `overwrite` is given. A build
    that fails leaves nothing behind.

    Args:
        output: the folder.
        summary: what the rows are, for the card.
        config: the resolved options that decide what comes out; holds the seed of the shuffle.
        inputs: name -> path or Hub id; `inputs["corpus"]`, from `redi.data.reading.corpus.pinned_input`, is read.
        select: a batch of the corpus -> the rows it gives, and how many were dropped for which reason.
        load_filter: makes a function of shuffled rows that returns those that remain, and how many were dropped for
            which reason. Called once the build is known to be needed, since it may be slow to load.
        expect_rows: the number of rows that must come out.
        overwrite: build again, and replace `output`.

    Returns:
        The table of counts, to be printed.

    Raises:
        UsageError: an input or output is unfit, no rows come out, or not `expect_rows` of them.
    """
    started = time.time()
    refuse_output_over_input(output, inputs)
    if not overwrite and is_complete(output, config, inputs):
        return already_done(output, expect_rows)
    hashes: dict[str, str] = {}
    hashing = Thread(target=lambda: hashes.update({name: fingerprint(path) for name, path in inputs.items()}))
    hashing.daemon = True  # a build that fails should not wait for it
    with new_folder(output, overwrite, inputs.values()) as folder:
        corpus = open_corpus(inputs["corpus"])
        hashing.start()
        filter_rows = load_filter() if load_filter is not None else None
        counts, lengths = _write_rows(folder, corpus, config["seed"], select, filter_rows)
        if config["truncated"] == "drop" and "truncated" not in counts:
            raise UsageError(f"--truncated drop: {inputs['corpus']} has no finish_reasons, so no trace is known to be")
        if lengths is None:
            drops = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items() if count)
            why = f"dropped: {drops}" if drops else "it has none to begin with"
            raise UsageError(f"--input {inputs['corpus']}: no rows are left; {why}")
        check_expected(expect_rows, counts["rows"])
        about = {"config": config, "inputs": inputs, "counts": counts, "started": started}
        hashing.join()
        write_card_and_manifest(folder, output, summary, **about, lengths=lengths, fingerprints=hashes)
    return count_table(counts)


def _write_rows(
    folder: Path, corpus: Corpus, seed: int, select: Select, filter_rows: Filter | None
) -> tuple[dict[str, Any], DatasetLengths | None]:
    """Writes the shards; returns the counts, and the lengths of the rows if there are any."""
    dropped, sources, kept = Counter(), Counter(), Counter()
    traces = TruncatedTraces()
    batches = _counting_sources(traces.noting(prefetch(corpus.batches, 2)), sources)
    rows = ordered(_counting(map(select, batches), dropped), shuffled_places(corpus.num_rows, seed), folder)
    if filter_rows is not None:
        rows = _counting(map(filter_rows, rows), dropped)
    recorder = LengthRecorder()
    files = write_shards(recorder.recording(traces.counting(_counting_sources(prefetch(rows), kept))), folder)
    counts = {"input_rows": corpus.num_rows, "dropped": dict(dropped), "rows": sum(files.values()), "files": files}
    assert counts["input_rows"] == dropped.total() + counts["rows"]
    counts |= traces.counts()
    if not files:
        return counts, None
    counts["sources"] = {name: {"input": count, "kept": kept[name]} for name, count in sources.most_common()}
    return counts, recorder.lengths()


def _counting(results: Iterator[tuple[Any, Counter[str]]], total: Counter[str]) -> Iterator[Any]:
    """Passes on the rows of each result and adds its drops to `total`."""
    for rows, drops in results:
        total.update(drops)
        yield rows


def _counting_sources(batches: Iterator[Any], total: Counter[str]) -> Iterator[Any]:
    """Passes on batches or tables and adds the rows of each source to `total`."""
    for batch in batches:
        found = pc.value_counts(pc.fill_null(batch["source"], NO_SOURCE))
        total.update(dict(zip(*(part.to_pylist() for part in found.flatten()), strict=True)))
        yield batch
