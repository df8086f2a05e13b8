"""Tokenised training rows: positives, pairs, or problems with any number of positive and negative traces."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow.compute as pc
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset
from trl.trainer.utils import global_then_local_main_first

from redi.runs.errors import UsageError, usage_errors
from redi.text.encoding import Message, Tokenizer, encode, split_row, template_notes

logger = get_logger(__name__)

KINDS = {"positives": ["messages"], "pairs": ["chosen", "rejected"], "traces": ["prompt", "completion", "label"]}
PAIR_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]  # TRL's names
TRACE_COLUMNS = ["prompt_ids", "completion_ids", "labels", "weights"]
TOKENIZED = {"positives": ["input_ids", "labels"], "pairs": PAIR_COLUMNS, "traces": TRACE_COLUMNS}
MASKED = -100  # the label of a token that is not scored
NAME = "name"  # the row's uuid, or "row N"; messages use it


def kind_of(columns: list[str], kinds: tuple[str, ...], name: str) -> str:
    """Which of the kinds has these columns; a `UsageError` if none. `name` is that of the dataset."""
    for kind in kinds:
        if set(KINDS[kind]) <= set(columns):
            return kind
    needed = " or ".join(f"{kind} ({', '.join(KINDS[kind])})" for kind in kinds)
    raise UsageError(
        f"{name} has the columns {', '.join(columns)}, but this stage trains on {needed}; build_positives.py and "
        "build_pairs.py make positives and pairs"
    )


def prepare_rows(
    dataset: Dataset,
    kinds: tuple[str, ...],
    tokenizer: Tokenizer,
    max_length: int | None,
    num_proc: int | None = None,
    name: str = "the dataset",
) -> tuple[Dataset, dict[str, int]]:
    """Tokenises and checks every row, first on the first process; says what is dropped or cut.

    - *positives* (`messages`) become `input_ids, labels, name`, cut to `max_length`. Labels are -100 in the prompt.
    - *pairs* (`chosen, rejected`) become `prompt_ids, chosen_ids, rejected_ids, name`.
    - *traces* (`prompt, completion, label`, and optionally `weight`) become `prompt_ids, completion_ids, labels,
      weights, name`: rows with the same prompt are one problem, in the order of their first rows. A problem may have
      several traces of either side, or none of one.

    A row is dropped if a completion is empty or white space, or if its prompt leaves no room in `max_length`, tokens
    of a trace; the trainer cuts longer pairs and traces, at the end. Tokenised rows are returned as they are. `kinds`
    are those that the trainer can use, `name` is the dataset's, for messages.

    Returns the rows, and counts: `rows`, those dropped, the traces kept of each side and those cut, and the problems
    with the same text on both sides. Columns of none of the kinds, no row left, a malformed row, which is named, and a
    template or a tokenizer that changes its text, are `UsageError`s.
    """
    columns = dataset.column_names
    if any(set(TOKENIZED[kind]) <= set(columns) for kind in kinds):
        return dataset, {"rows": len(dataset)}
    kind = kind_of(columns, kinds, name)
    with global_then_local_main_first():
        rows = dataset.map(
            tokenize_row,
            with_indices=True,
            fn_kwargs={"tokenizer": tokenizer, "kind": kind, "limit": max_length if kind == "positives" else None},
            remove_columns=columns,
            num_proc=num_proc,
            desc="Tokenizing",
        )
        kept, counts = _choose(rows, max_length, name)
        rows = rows if len(kept) == len(rows) else rows.select(kept)
        rows = _group(rows) if kind == "traces" else rows
    counts["same_text"] = sum(rows["same_text"])
    num_traces = counts["positives"] + counts["negatives"]
    said = {
        f"{counts['positives']:,} positive and {counts['negatives']:,} negative traces": kind == "traces",
        "no trace is a positive: is `label` right?": not counts["positives"],
        "no trace is a negative: is `label` right?": kind == "traces" and not counts["negatives"],
        f"max_length={max_length} cuts {counts['cut']:,} of {num_traces:,} traces at the end": counts["cut"],
        f"chosen and rejected are the same text in {counts['same_text']:,} row(s)": counts["same_text"],
        **dict.fromkeys(template_notes(tokenizer, rows[0][TOKENIZED[kind][0]]), True),
    }
    for text in [text for text, applies in said.items() if applies and PartialState().is_main_process]:
        print(f"{name}: {text}", flush=True)
    return rows.select_columns(TOKENIZED[kind] + [NAME]), counts


def _row_errors(row: dict[str, Any], index: int) -> AbstractContextManager[None]:
    uuid = f" ({row['uuid']})" if row.get("uuid") else ""
    return usage_errors(lambda error: f"row {index}{uuid} of the dataset: {error}", ValueError)


def read_row(
    row: dict[str, Any], index: int, kind: str
) -> tuple[list[Message], list[list[Message]], list[bool], float]:
    """The messages of a row's prompt and of its completions, which of these are positives, and the row's weight."""
    with _row_errors(row, index):
        prompt, turns = split_row(row, kind)
        if kind != "traces":
            return prompt, turns, [True, False][: len(turns)], 1.0
        return prompt, turns, [_label(row["label"])], _weight(row.get("weight"))


def tokenize_row(
    row: dict[str, Any], index: int, tokenizer: Tokenizer, kind: str, limit: int | None = None
) -> dict[str, Any]:
    """A row of `prepare_rows`, not grouped, with `num_prompt` and the `lengths` of its traces, 0 without text."""
    prompt, turns, labels, weight = read_row(row, index, kind)
    with _row_errors(row, index):
        encoded = [encode(tokenizer, prompt, turn) for turn in turns]
    ids, completions = encoded[0][0], [completion for _, completion in encoded]
    values = {
        "positives": [(ids + completions[0])[:limit], ([MASKED] * len(ids) + completions[0])[:limit]],
        "pairs": [ids, *completions],
        "traces": [ids, completions, labels, [weight]],
    }[kind]
    return {
        **dict(zip(TOKENIZED[kind], values, strict=True)),
        NAME: str(row.get("uuid") or f"row {index}"),
        "num_prompt": len(ids),
        "lengths": [
            len(ids) + len(completion) if turn[0]["content"].strip() else 0
            for turn, completion in zip(turns, completions, strict=True)
        ],
        "is_positive": labels,
        "same_text": len(turns) == 2 and turns[0] == turns[1],
    }


def _label(label: Any) -> bool:
    if isinstance(label, str) or label not in (True, False):  # 1 == True, 0 == False
        raise ValueError(f"label={label!r} is neither true (or 1, a positive) nor false (or 0, a negative)")
    return bool(label)


def _weight(weight: Any) -> float:
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ValueError(f"weight={weight!r} is not a positive finite number; leave the trace out instead")
    return float(weight)


def _choose(rows: Dataset, max_length: int | None, name: str) -> tuple[list[int], dict[str, int]]:
    """The indices of the rows to train on, and the counts."""
    limit = math.inf if max_length is None else max_length
    facts = rows.select_columns([NAME, "num_prompt", "lengths", "is_positive"]).to_list()
    empty = [i for i, row in enumerate(facts) if not all(row["lengths"])]
    full = [i for i, row in enumerate(facts) if all(row["lengths"]) and row["num_prompt"] >= limit]
    for indices, reason in ((empty, "an empty completion"), (full, f"a prompt that fills max_length={max_length}")):
        if indices:
            names = ", ".join([facts[i][NAME] for i in indices[:10]] + ["..."] * (len(indices) > 10))
            logger.warning(f"{name}: {len(indices)} of {len(rows)} rows dropped for {reason}: {names}")
    kept = sorted(set(range(len(facts))) - {*empty, *full})
    if not kept:
        raise UsageError(
            f"{name}: no row is left to train on; of {len(rows)}, {len(empty)} have an empty completion and "
            f"{len(full)} a prompt that fills max_length={max_length}"
        )
    cut = sum(length > limit for i in kept for length in facts[i]["lengths"])
    sides = [side for i in kept for side in facts[i]["is_positive"]]
    counts = {"rows": len(rows), "dropped_empty": len(empty), "dropped_long_prompt": len(full), "cut": cut}
    return kept, counts | {"positives": sum(sides), "negatives": len(sides) - sum(sides)}


def _group(traces: Dataset) -> Dataset:
    """Merges the rows of a prompt into one problem."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt_ids in enumerate(traces["prompt_ids"]):
        groups.setdefault(tuple(prompt_ids), []).append(index)

    def merged() -> Iterator[dict[str, Any]]:
        for prompt_ids, indices in groups.items():
            rows = traces[indices]
            lists = {column: sum(rows[column], []) for column in TRACE_COLUMNS[1:]}
            traces_of = {
                (tuple(ids), label) for ids, label in zip(lists["completion_ids"], lists["labels"], strict=True)
            }
            same_text = len({ids for ids, _ in traces_of}) < len(traces_of)
            yield {"prompt_ids": list(prompt_ids), **lists, NAME: rows[NAME][0], "same_text": same_text}

    return Dataset.from_generator(merged)  # to disk, not to memory


def num_masked(labels: list[int]) -> int:
    """Tokens of a positive's prompt, from its labels. The first token is predicted by none, so it is never scored."""
    return 1 + labels[1:].count(MASKED)


def lengths_of(problems: Dataset) -> Iterator[tuple[int, list[int]]]:
    """Tokens of each problem's prompt and of each of its completions, without making lists of the tokens.

    A `UsageError` if in a positive scored tokens come before others.
    """
    index = 0
    for table in problems.with_format("arrow").iter(1000):
        if "input_ids" in table.column_names:
            for labels in table["labels"]:
                is_scored = labels.values.to_numpy() != MASKED
                num_scored = int(is_scored[1:].sum())
                if not is_scored[len(is_scored) - num_scored :].all():
                    raise UsageError(f"row {index}: its scored tokens are not the end of the trace")
                yield len(is_scored) - num_scored, [num_scored]
                index += 1
            continue
        prompts = pc.list_value_length(table["prompt_ids"]).to_pylist()
        if "chosen_ids" in table.column_names:
            sides = (pc.list_value_length(table[side]).to_pylist() for side in PAIR_COLUMNS[1:])
            completions = map(list, zip(*sides, strict=True))
        else:
            completions = [[len(ids) for ids in problem] for problem in table["completion_ids"]]
        yield from zip(prompts, completions, strict=True)
