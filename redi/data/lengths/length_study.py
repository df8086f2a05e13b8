"""Studies how long the traces of pairs or positives are, by source, and what limits would drop."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from redi.data.dataset_folder import PLOT, new_dataset
from redi.data.lengths.dataset_lengths import (
    COUNTS,
    DatasetLengths,
    joined,
    length_tables,
    recorded_tokens,
    source_names,
    summarise,
)
from redi.data.lengths.length_rules import counting_options, load_counting_tokenizer, row_lengths
from redi.data.lengths.plots import plot_lengths
from redi.data.reading.rows import Rows, open_rows
from redi.data.row_texts import read_texts, side_columns
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.text.encoding import Tokenizer


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
    """Writes a plot (`lengths.png`) and percentiles (`lengths.md`, `lengths.json`) to `output`; returns the tables.

    The source holds pairs or positives, in the shapes of `redi.data.row_texts.read_texts`, with `source`. Without a
    tokenizer, the counts in the rows are used, or characters if there are none. The limits are inclusive; what they
    would drop is shown.
    """
    rule = counting_options(tokenizer, length_rule=length_rule).get("length_rule")
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    inputs = {"rows": source} | ({"tokenizer": tokenizer} if tokenizer else {})
    with new_dataset(output, {"length_rule": rule, **limits}, inputs, overwrite) as new:
        rows = open_rows(source)
        columns = _columns_to_measure(rows, tokenizer is not None, limits)
        parts = list(_measured(rows, columns, load_counting_tokenizer(tokenizer, rule) if tokenizer else None, rule))
        if not parts:
            raise UsageError(f"--input {source} has no rows to measure")
        lengths = joined(parts)
        summary = summarise(lengths, max_prompt_tokens, max_response_tokens)
        tables = length_tables(summary)
        plot_lengths(lengths, new.folder / PLOT, max_prompt_tokens, max_response_tokens)
        write_text(new.folder / "lengths.md", tables)
        write_text(new.folder / "lengths.json", json.dumps(summary, indent=2) + "\n")
        new.finish({"rows": summary["rows"]})
    return tables.rstrip()


def _columns_to_measure(rows: Rows, has_tokenizer: bool, limits: dict[str, int | None]) -> list[str]:
    """The columns that the lengths are taken from; limits in tokens need a way to count."""
    names = rows.schema.names
    if not has_tokenizer and {*COUNTS, "source"} <= set(names):
        return [*COUNTS, "source"]
    for option in (f"--{name.replace('_', '-')}" for name, limit in limits.items() if limit is not None):
        if not has_tokenizer:
            raise UsageError(f"{option}: {rows.source} holds no token counts; pass --tokenizer to count them")
    columns = [*side_columns(names), "source"]
    if "source" not in names:
        raise UsageError(f"--input {rows.source} has no column 'source'; its columns are {', '.join(names)}")
    return columns + ["prompt"] * ("prompt" in names)


def _measured(
    rows: Rows, columns: list[str], tokenizer: Tokenizer | None, rule: str | None
) -> Iterator[DatasetLengths]:
    """The lengths of a batch at a time: the counts in `columns`, or else the tokens or characters of their texts."""
    first_row = 0
    for batch in rows.batches(columns):
        unit = "tokens"
        if COUNTS[0] in columns:
            lengths = recorded_tokens(batch, first_row)
        elif tokenizer is not None:
            prompts, texts = read_texts(batch, first_row)
            for row, prompt in enumerate(prompts, first_row):
                if (roles := [turn["role"] for turn in prompt]) != ["user"]:
                    holds = f"--input: row {row}: the prompt holds {', '.join(roles)}"
                    raise UsageError(f"{holds}; --tokenizer counts one user turn alone")
            lengths, _ = row_lengths(tokenizer, rule, [prompt[0]["content"] for prompt in prompts], texts)
        else:
            unit, (prompts, texts) = "characters", read_texts(batch, first_row)
            texts = {"prompt": ["".join(turn["content"] for turn in turns) for turns in prompts]} | texts
            lengths = {name: np.array(list(map(len, of_rows))) for name, of_rows in texts.items()}
        yield DatasetLengths(unit, lengths, source_names(batch))
        first_row += len(batch)
