"""The lengths of all traces of a dataset, in training's tokens: exact, or estimated within seconds for any size."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from redi.preflight.recipe import Rows
from redi.runs.errors import UsageError
from redi.text.training_rows import KINDS, lengths_of, read_row, tokenize_row

ALL_CHARACTERS = 4_000_000  # up to this size every row is tokenised, in seconds
SAMPLE, LONGEST = 96, 8  # rows of a larger dataset that are tokenised
LENGTH_COLUMNS = ("prompt_len", "chosen_len", "rejected_len")
SPREAD = 8  # tokens: how much the difference between a length column and training's count may vary


@dataclass(frozen=True)
class TraceLengths:
    """Tokens of the traces, before cutting.

    Attributes:
        problems: of each problem, in the order of training, the lengths of its traces; chosen before rejected.
        prompt: mean tokens of a prompt.
        how: they were found, for the report.
        cut: traces that were longer, and are cut already.
    """

    problems: list[list[int]]
    prompt: float
    how: str
    cut: int = 0


def tokenized_lengths(rows: Dataset, counts: dict[str, int], leaves_out_negatives: bool) -> TraceLengths:
    """Lengths of the rows that `redi.text.training_rows.prepare_rows` has tokenised, and counted."""
    labels = rows["labels"] if "completion_ids" in rows.column_names else [[True, False]] * len(rows)
    problems, prompts = [], []
    for (prompt, completions), positive in zip(lengths_of(rows), labels, strict=True):
        kept = zip(completions, positive, strict=False)  # a positive has one completion
        problems.append([prompt + n for n, is_positive in kept if is_positive or not leaves_out_negatives])
        prompts.append(prompt)
    cut = counts["cut"] if "input_ids" in rows.column_names else 0  # others are cut later
    return TraceLengths(problems, float(np.mean(prompts)), "every row tokenised", cut)


def trace_lengths(rows: Rows, tokenizer: PreTrainedTokenizerBase, leaves_out_negatives: bool = False) -> TraceLengths:
    """Lengths of all traces, from the dataset's own length columns or from characters.

    `prompt_len, chosen_len, rejected_len` are corrected by their median difference from training's count on some rows.
    If the difference varies by more than `SPREAD` tokens, another tokenizer counted them, and they are not used.
    Without them the rows are tokenised: all of them, or a sample and the longest ones of a large dataset. Tokens are
    then a linear function of characters.

    Raises:
        UsageError: a row is malformed.
    """
    kind = rows.kind
    if kind == "pairs" and set(LENGTH_COLUMNS) <= set(rows.table.schema.names):
        lengths = _from_columns(rows, tokenizer, leaves_out_negatives)
        if lengths is not None:
            return lengths
    characters, positives, keys, sample = _scan(rows, kind)
    kept = positives | (not leaves_out_negatives)
    sides = {i: _count(row, i, kind, tokenizer) for i, row in sample.items()}
    known = np.array(sorted(sides))
    exact = np.array([[total for _, total in sides[i]] for i in known])
    prompt = float(np.mean([prompt for side in sides.values() for prompt, _ in side]))
    if len(known) == rows.num_rows:
        full = exact.all(axis=1)  # training drops a row with an empty completion
        if not full.any():
            raise UsageError("dataset_name: every row has an empty completion; training drops all of them")
        return TraceLengths(_by_problem(exact[full], kept[full], keys[full]), prompt, "every row tokenised")
    slope, offset = np.polyfit(characters[known].flatten(), exact.flatten(), 1)
    traces = np.rint(slope * characters + offset).astype(int).clip(1)
    traces[known] = exact.clip(1)
    how = f"estimated from characters; {len(known)} rows tokenised, among them the longest"
    return TraceLengths(_by_problem(traces, kept, keys), prompt, how)


def _by_problem(traces: np.ndarray, kept: np.ndarray, keys: np.ndarray) -> list[list[int]]:
    problems: dict[int, list[int]] = {}
    for lengths, row, key in zip(traces.tolist(), kept.tolist(), keys.tolist(), strict=True):
        problems.setdefault(key, []).extend(n for n, keep in zip(lengths, row, strict=True) if keep)
    return list(problems.values())


def _count(row: dict[str, Any], index: int, kind: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """(tokens of the prompt, of the trace) of each trace of a row, as training counts them."""
    tokenized = tokenize_row(row, index, tokenizer, kind)
    return [(tokenized["num_prompt"], length) for length in tokenized["lengths"]]


def _from_columns(rows: Rows, tokenizer: PreTrainedTokenizerBase, leaves_out_negatives: bool) -> TraceLengths | None:
    columns = rows.table.to_table(columns=list(LENGTH_COLUMNS))
    if any(column.null_count for column in columns.columns):
        return None
    prompt, chosen, rejected = (columns[name].to_numpy() for name in LENGTH_COLUMNS)
    traces = np.stack([prompt + chosen, prompt + rejected], axis=1)
    sample = rows.first(SAMPLE)
    sides = [_count(row, i, "pairs", tokenizer) for i, row in enumerate(sample)]
    exact = np.array([[total for _, total in side] for side in sides])
    differences = traces[: len(sample)] - exact
    if np.ptp(differences) > SPREAD:
        return None
    traces = traces - round(float(np.median(differences)))
    traces[: len(sample)] = exact
    mean_prompt = float(np.mean([side[0][0] for side in sides]))
    error = f"{np.median(differences):+.0f} tokens, on {len(sample)} tokenised rows"
    how = f"from {', '.join(LENGTH_COLUMNS)}, corrected for their median error, {error}"
    return TraceLengths(traces[:, : 1 if leaves_out_negatives else 2].tolist(), mean_prompt, how)


def _scan(rows: Rows, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, dict]]:
    """Checks the shape of every row.

    Returns:
        The characters of every trace and whether it is a positive, both `(rows, traces of a row)`; the problem of each
        row; and the rows to be tokenised.
    """
    wanted = {*KINDS[kind], "uuid"} | ({"prompt", "weight"} if kind != "positives" else set())
    names = [name for name in rows.table.schema.names if name in wanted]
    characters, positives, keys, sample, longest = [], [], [], {}, {}
    numbers: dict[str, int] = {}  # of problems
    step = max(1, rows.num_rows // SAMPLE)
    kept = 0
    # A small readahead: a quarter of the default's memory for long traces, and no slower.
    for batch in rows.table.to_batches(columns=names, batch_size=256, batch_readahead=2, fragment_readahead=1):
        first = len(characters)
        for index, row in enumerate(batch.to_pylist(), first):
            prompt, turns, labels, _ = read_row(row, index, kind)
            sizes = [sum(len(message["content"]) for message in prompt + turn) for turn in turns]
            characters.append(sizes)
            positives.append(labels)
            keys.append(numbers.setdefault(json.dumps(prompt), len(numbers)) if kind == "traces" else index)
            if index % step == 0 or kept < ALL_CHARACTERS:
                sample[index] = row
                kept += sum(sizes)
            if first not in longest or max(sizes) > longest[first][0]:  # of each batch
                longest[first] = (max(sizes), index, row)
    everything = np.array(characters, dtype=float)
    if everything.sum() > ALL_CHARACTERS:
        sample = {i: row for i, row in sample.items() if i % step == 0}
        ends = sorted(longest.values(), key=lambda item: -item[0])[:LONGEST]
        sample |= {index: row for _, index, row in ends}
    return everything, np.array(positives), np.array(keys), sample
