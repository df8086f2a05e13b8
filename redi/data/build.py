"""What the commands of `data_preprocess/` share: their options, and the way from a corpus to a finished folder."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.dataset_card import write_card
from redi.data.lengths.measure import NO_SOURCE, Lengths, Recorder
from redi.data.reading.corpus import open_corpus
from redi.data.reading.prefetch import ahead
from redi.data.selection import CHECKS
from redi.data.shuffle import shuffled, write_shards
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, new_folder
from redi.runs.manifest import is_finished, read_manifest, write_manifest

Select = Callable[[pa.RecordBatch], tuple[pa.RecordBatch, Counter[str]]]
Filter = Callable[[pa.Table], tuple[pa.Table, Counter[str]]]


def whole_number(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not '{text}'")
    return int(text)


def build_parser(description: str) -> StrictParser:
    """A parser with the options that all builds have; `excluded_sources` resolves two of them."""
    parser = StrictParser(description=description)
    parser.add_argument(
        "--input", required=True, help="parquet or JSONL file, folder of either, or Hub dataset as owner/name"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub dataset; its newest commit by default")
    parser.add_argument("--output", required=True, type=Path, help="folder to write train-*.parquet into")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument(
        "--exclude-source",
        action="append",
        metavar="NAME",
        help="drop the rows whose source is exactly NAME, may be repeated; without it, cn_k12 is dropped",
    )
    sources.add_argument("--keep-all-sources", action="store_true", help="drop no source, not even cn_k12")
    parser.add_argument("--seed", type=whole_number, default=42, help="of the shuffle before the selection")
    parser.add_argument("--expect-rows", type=whole_number, metavar="N", help="fail unless exactly N rows come out")
    parser.add_argument("--overwrite", action="store_true", help="build again, and replace --output where it exists")
    return parser


def excluded_sources(options: argparse.Namespace) -> list[str]:
    """The sources to drop, sorted: those given, or by default the paper's, cn_k12."""
    if options.keep_all_sources:
        return []
    return sorted(set(options.exclude_source or ["cn_k12"]))


def build(
    options: argparse.Namespace,
    *,
    summary: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    reasons: list[str],
    select: Select,
    load_filter: Callable[[], Filter] | None = None,
) -> None:
    """Selects from a corpus, shuffles, filters, and writes parquet shards, a card and `manifest.json` to `--output`.

    Nothing is done where the same options on the same inputs are finished already, unless `--overwrite` is given.
    Nothing is left behind by a build that fails.

    Args:
        options: of a `build_parser`.
        summary: what the rows are, for the card.
        config: the resolved options that decide what comes out.
        inputs: name -> path or Hub id; `inputs["corpus"]`, from `redi.data.reading.corpus.pinned_input`, is read.
        reasons: for the rows that `select` and the filter drop, besides the `CHECKS` that all builds share.
        select: a batch of the corpus -> the rows it gives, and how many were dropped for which reason.
        load_filter: makes a function of shuffled rows that returns those that remain, and how many were dropped for
            which reason. Called once the build is known to be needed, since it may be slow to load.

    Raises:
        UsageError: an input or output is unfit, no rows come out, or not as many as `--expect-rows` says.
    """
    started = time.time()
    refuse_output_over_input(options.output, inputs)
    if not options.overwrite and is_complete(options.output, config, inputs):
        counts = read_manifest(options.output)["counts"]
        check_expected(options.expect_rows, counts["rows"])
        print(f"{options.output}: already done, {counts['rows']} rows")
        return

    corpus = open_corpus(inputs["corpus"])
    hashes = _hashes(inputs)
    with new_folder(options.output, options.overwrite) as folder:
        dropped = Counter({reason: 0 for reason in [*CHECKS, *reasons]})
        sources: Counter[str] = Counter()
        selected = _counting(map(select, _counting_sources(ahead(corpus.batches, 2), sources)), dropped)
        rows = shuffled(selected, corpus.num_rows, config["seed"], folder)
        if load_filter is not None:
            rows = _counting(map(load_filter(), rows), dropped)
        recorder = Recorder()
        files = write_shards(recorder.recording(ahead(rows)), folder)
        counts = {"input_rows": corpus.num_rows, "dropped": dict(dropped), "rows": sum(files.values()), "files": files}
        assert counts["input_rows"] == dropped.total() + counts["rows"]
        if counts["rows"] == 0:
            raise UsageError(f"--input {options.input}: no rows are left; {_describe_drops(dropped)}")
        check_expected(options.expect_rows, counts["rows"])
        lengths = recorder.lengths()
        counts["sources"] = _sources(sources, lengths)
        about = {"config": config, "inputs": inputs, "counts": counts}
        write_card(
            folder,
            title=options.output.resolve().name,
            summary=summary,
            **about,
            lengths=lengths,
        )
        write_manifest(folder, **about, seed=config["seed"], started=started, fingerprints=hashes())
    print(count_table(counts))


def _hashes(inputs: dict[str, str]) -> Callable[[], dict[str, str]]:
    """Starts hashing the inputs beside all other work; the function returned waits for the hashes, by name."""
    found: dict[str, str] = {}
    thread = Thread(target=lambda: found.update({name: fingerprint(inputs[name]) for name in inputs}), daemon=True)
    thread.start()  # a daemon, since a build that fails should not wait for it

    def hashes() -> dict[str, str]:
        thread.join()
        return found

    return hashes


def refuse_output_over_input(output: Path, inputs: dict[str, str]) -> None:
    """Raises a `UsageError` where `--overwrite` would replace an input."""
    for path in map(Path, inputs.values()):
        if path.exists() and path.resolve().is_relative_to(output.resolve()):
            raise UsageError(f"--output {output} holds the input {path} and would replace it; choose another folder")


def is_complete(output: Path, config: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether `output` is the finished result of the same options and inputs, all its shards included."""
    if not is_finished(output, config, inputs):
        return False
    return all((output / name).is_file() for name in read_manifest(output)["counts"]["files"])


def _counting(results: Iterator[tuple[Any, Counter[str]]], total: Counter[str]) -> Iterator[Any]:
    """Passes on the rows of each result and adds its drops to `total`."""
    for rows, drops in results:
        total.update(drops)
        yield rows


def _counting_sources(batches: Iterator[pa.RecordBatch], total: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Passes on batches and adds the rows of each source to `total`."""
    for batch in batches:
        found = pc.value_counts(pc.fill_null(batch["source"], NO_SOURCE))
        total.update(dict(zip(*(part.to_pylist() for part in found.flatten()), strict=True)))
        yield batch


def _sources(total: Counter[str], lengths: Lengths) -> dict[str, dict[str, int]]:
    """For each source its rows in the input and its rows kept, the largest input first."""
    kept = dict(zip(lengths.sources, np.bincount(lengths.source_of).tolist(), strict=True))
    return {name: {"input": count, "kept": kept.get(name, 0)} for name, count in total.most_common()}


def check_expected(expected: int | None, num_rows: int) -> None:
    """Raises a `UsageError` naming both numbers where a number of rows is expected and another came out."""
    if expected is not None and num_rows != expected:
        raise UsageError(f"--expect-rows {expected}: the result has {num_rows} rows")


def _describe_drops(dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
    return f"dropped: {reasons}" if reasons else "it has none to begin with"


def count_table(counts: dict[str, Any]) -> str:
    """The counts of a build as aligned lines: what came in, what was dropped for each reason, what is kept."""
    lines = {"input rows": counts["input_rows"]}
    lines |= {f"  {reason}": -count for reason, count in counts["dropped"].items()}
    lines["kept"] = counts["rows"]
    return "\n".join(f"{name:<26}{count:>9,}" for name, count in lines.items())
