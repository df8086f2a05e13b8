"""Estimates the lengths of all traces of a dataset, in training's tokens, within seconds for any size."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from redi.preflight.recipe import Recipe, Rows
from redi.runs.errors import UsageError, usage_errors
from redi.text.encoding import encode, split_conversation, split_pair

ALL_CHARACTERS = 4_000_000  # up to this size every row is tokenised, in seconds
SAMPLE, LONGEST = 96, 8  # rows of a larger dataset that are tokenised
LENGTH_COLUMNS = ("prompt_len", "chosen_len", "rejected_len")
SPREAD = 8  # tokens: how much the difference between a length column and training's count may vary


@dataclass(frozen=True)
class TraceLengths:
    """Tokens of the traces, before cutting."""

    traces: np.ndarray  # (rows, traces of a row), chosen before rejected
    prompt: float  # mean of the prompts
    problems: np.ndarray  # the problem that each row belongs to
    how: str  # they were found, for the report


def kind_of(recipe: Recipe, columns: list[str]) -> str:
    """What the rows are: positives, pairs or traces; a `UsageError` if the stage trains on none of what they hold."""
    kinds = recipe.stage.kinds
    for kind, names in kinds.items():
        if names <= set(columns):
            return kind
    needed = " or ".join(f"{kind} ({', '.join(sorted(names))})" for kind, names in kinds.items())
    raise UsageError(
        f"dataset_name={recipe.run.dataset_name} has the columns {', '.join(columns)}, but {recipe.name} trains on "
        f"{needed}"
    )


def trace_lengths(rows: Rows, kind: str, tokenizer: PreTrainedTokenizerBase) -> TraceLengths:
    """Lengths of all traces, from the dataset's own length columns or from characters.

    `prompt_len, chosen_len, rejected_len` are corrected by their median difference from training's count on some rows.
    If the difference varies by more than `SPREAD` tokens, another tokenizer counted them, and they are not used.
    Without them the rows are tokenised: all of them, or a sample and the longest ones of a large dataset. Tokens are
    then a linear function of characters.

    Raises:
        UsageError: a row is malformed.
    """
    if kind == "pairs" and set(LENGTH_COLUMNS) <= set(rows.table.schema.names):
        lengths = _from_columns(rows, tokenizer)
        if lengths is not None:
            return lengths
    characters, problems, sample = _scan(rows, kind)
    known = sorted(sample)
    exact, prompt = _count([(i, sample[i]) for i in known], kind, tokenizer)
    if len(known) == rows.num_rows:
        return TraceLengths(exact, prompt, problems, "every row tokenised")
    slope, offset = np.polyfit(characters[known].flatten(), exact.flatten(), 1)
    traces = np.rint(slope * characters + offset).astype(int).clip(1)
    traces[known] = exact
    how = f"estimated from characters; {len(known)} rows tokenised, among them the longest"
    return TraceLengths(traces, prompt, problems, how)


def _count(
    rows: Iterable[tuple[int, dict[str, Any]]], kind: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, float]:
    """Tokens of all traces of numbered rows, as training counts them, and the mean of their prompts."""
    lengths = []
    for index, row in rows:
        name = row.get("uuid") or f"row {index}"
        with usage_errors(lambda error, name=name: f"dataset_name: {name}: {error}", ValueError, KeyError, TypeError):
            prompt, *completions = _messages(row, kind)
            encoded = [encode(tokenizer, prompt, completion) for completion in completions]
        lengths.append([[len(prompt_ids), len(ids)] for prompt_ids, ids in encoded])
    counted = np.array(lengths)
    return counted.sum(axis=2), float(counted[:, :, 0].mean())


def _messages(row: dict[str, Any], kind: str) -> tuple[list[dict], ...]:
    if kind == "positives":
        return split_conversation(row["messages"])
    if kind == "pairs":
        return split_pair(row)
    prompt, completion = row["prompt"], row["completion"]
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return prompt, [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def _from_columns(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> TraceLengths | None:
    columns = rows.table.to_table(columns=list(LENGTH_COLUMNS))
    prompt, chosen, rejected = (columns[name].to_numpy() for name in LENGTH_COLUMNS)
    traces = np.stack([prompt + chosen, prompt + rejected], axis=1)
    exact, mean_prompt = _count(enumerate(rows.first(SAMPLE)), "pairs", tokenizer)
    differences = traces[: len(exact)] - exact
    if np.ptp(differences) > SPREAD:
        return None
    traces = traces - round(float(np.median(differences)))
    traces[: len(exact)] = exact
    how = f"from {', '.join(LENGTH_COLUMNS)}, which are {np.median(differences):+.0f} tokens off on {len(exact)} rows"
    return TraceLengths(traces, mean_prompt, np.arange(rows.num_rows), how)


def _scan(rows: Rows, kind: str) -> tuple[np.ndarray, np.ndarray, dict[int, dict]]:
    """Characters of every trace `(rows, traces of a row)`, the problem of each row, and the rows to be tokenised."""
    names = {"positives": ["messages"], "pairs": ["chosen", "rejected"], "traces": ["prompt", "completion"]}[kind]
    if kind == "pairs" and "prompt" in rows.table.schema.names:
        names.append("prompt")
    parts, keys, sample, longest, first, kept = [], [], {}, {}, 0, 0
    step, is_traces = max(1, rows.num_rows // SAMPLE), kind == "traces"
    # A small readahead: a quarter of the default's memory for long traces, and no slower.
    for batch in rows.table.to_batches(columns=names, batch_size=256, batch_readahead=2, fragment_readahead=1):
        if not len(batch):
            continue
        characters = _characters(batch, kind)
        parts.append(characters)
        keys += map(json.dumps, batch["prompt"].to_pylist()) if is_traces else range(first, first + len(batch))
        at = int(characters.max(axis=1).argmax())
        longest[first + at] = (int(characters.max()), batch.slice(at, 1).to_pylist()[0])
        for i in range(len(batch)):
            if (first + i) % step == 0 or kept < ALL_CHARACTERS:
                sample[first + i] = batch.slice(i, 1).to_pylist()[0]
                kept += int(characters[i].sum())
        first += len(batch)
    everything = np.concatenate(parts)
    if everything.sum() > ALL_CHARACTERS:
        ends = sorted(longest.items(), key=lambda item: -item[1][0])[:LONGEST]
        sample = {i: row for i, row in sample.items() if i % step == 0} | {i: row for i, (_, row) in ends}
    return everything, np.unique(np.array(keys), return_inverse=True)[1], sample


def _characters(batch: pa.RecordBatch, kind: str) -> np.ndarray:
    """Characters of prompt and completion of each trace. `(rows, traces of a row)`"""
    text = {name: _text(batch[name]) for name in batch.schema.names}
    if kind != "pairs":
        return sum(text.values())[:, None]
    holds_prompt = batch["chosen"][0].as_py()[0]["role"] != "assistant"
    prompt = 0 if holds_prompt else text.get("prompt", np.zeros(1))[:, None]
    return np.stack([text["chosen"], text["rejected"]], axis=1) + prompt


def _text(column: pa.Array) -> np.ndarray:
    """Characters of each row of a column of texts, or of messages."""
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return pc.fill_null(pc.utf8_length(column), 0).to_numpy(zero_copy_only=False).astype(float)
    sizes = pc.fill_null(pc.utf8_length(pc.struct_field(pc.list_flatten(column), "content")), 0)
    rows = pc.list_parent_indices(column)
    return np.bincount(rows.to_numpy(), weights=sizes.to_numpy(zero_copy_only=False), minlength=len(column))
