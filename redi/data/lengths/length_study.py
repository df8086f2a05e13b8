"""Studies how long the traces of pairs or positives are, by source, and what limits would drop."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from redi.data.dataset_folder import refuse_output_over_input
from redi.data.lengths.dataset_lengths import LengthRecorder, counted_lengths, recorded_lengths
from redi.data.lengths.length_rules import load_counting_tokenizer
from redi.data.lengths.plots import plot_lengths
from redi.data.lengths.tables import length_tables, summarise
from redi.data.reading.local_files import Rows, open_rows
from redi.runs.errors import UsageError
from redi.runs.files import new_folder, write_text
from redi.runs.manifest import write_manifest

PAIRS = ("chosen", "rejected")
POSITIVES = ("messages",)
COUNTS = ("prompt_len", "chosen_len", "rejected_len")


def study_lengths(
    source: str,
    output: Path,
    *,
    tokenizer: str | None = None,
    length_rule: str | None = None,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a plot (`lengths.png`) and percentiles (`lengths.md`, `lengths.json`) to `output`.

    Args:
        source: pairs or positives.
        output: the folder.
        tokenizer: counts tokens; without it, the counts in the rows are used, or characters if there are none.
        length_rule: of `tokenizer`, "paper" by default.
        max_prompt_tokens, max_response_tokens: inclusive limits whose drops are shown.
        overwrite: replace `output`.

    Returns:
        The tables, to be printed.
    """
    started = time.time()
    if length_rule is not None and tokenizer is None:
        raise UsageError("--length-rule needs a tokenizer to count with; pass --tokenizer with the base model")
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    config = {"length_rule": (length_rule or "paper") if tokenizer else None, **limits}
    inputs = {"rows": source} | ({"tokenizer": tokenizer} if tokenizer else {})
    refuse_output_over_input(output, inputs)
    rows = open_rows(source)
    columns = columns_to_measure(rows, tokenizer is not None, limits)
    with new_folder(output, overwrite) as folder:
        measure = recorded_lengths
        if tokenizer:
            measure = counted_lengths(load_counting_tokenizer(tokenizer, config["length_rule"]), config["length_rule"])
        recorder = LengthRecorder(measure)
        num_rows = sum(map(len, recorder.recording(_tables(rows, columns))))
        if num_rows == 0:
            raise UsageError(f"--input {source} has no rows to measure")
        lengths = recorder.lengths()
        summary = summarise(lengths, max_prompt_tokens, max_response_tokens)
        tables = length_tables(summary)
        plot_lengths(lengths, folder / "lengths.png", max_prompt_tokens, max_response_tokens)
        write_text(folder / "lengths.md", tables)
        write_text(folder / "lengths.json", json.dumps(summary, indent=2) + "\n")
        write_manifest(folder, config=config, inputs=inputs, counts={"rows": num_rows}, started=started)
    return tables.rstrip()


def columns_to_measure(rows: Rows, has_tokenizer: bool, limits: dict[str, int | None]) -> tuple[str, ...]:
    """The columns that the lengths are taken from.

    Raises:
        UsageError: the rows are neither pairs nor positives, or there are limits in tokens without a way to count.
    """
    if not has_tokenizer:
        if {*COUNTS, "source"} <= set(rows.schema.names):
            return COUNTS
        for name, limit in limits.items():
            if limit is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option}: {rows.source} holds no token counts; pass --tokenizer to count them")
    for columns in (PAIRS, POSITIVES):
        if _are_conversations(rows.schema, columns):
            return columns
    raise UsageError(
        f"--input {rows.source} holds neither pairs (chosen, rejected, source) nor positives (messages, source); its "
        f"columns are {', '.join(rows.schema.names)}"
    )


def _are_conversations(schema: pa.Schema, columns: tuple[str, ...]) -> bool:
    types = [schema.field(name).type for name in columns if name in schema.names]
    lists = [type_ for type_ in types if pa.types.is_list(type_) or pa.types.is_large_list(type_)]
    turns = [type_.value_type for type_ in lists if pa.types.is_struct(type_.value_type)]
    found = [turn for turn in turns if turn.get_field_index("content") >= 0]
    return "source" in schema.names and len(found) == len(columns)


def _tables(rows: Rows, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    for batch in rows.batches([*columns, "source"]):
        yield pa.Table.from_batches([batch])
