"""Tokenised training rows: one per problem, either a pair or any number of positive and negative traces."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyarrow.compute as pc
from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import global_then_local_main_first

from redi.text.encoding import encode, split_pair

logger = get_logger(__name__)

PAIR_COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids"]  # TRL's names
TRACE_COLUMNS = ["prompt_ids", "completion_ids", "labels", "weights"]
NAME = "name"  # the row's uuid, or "row N"; messages use it


def prepare_problems(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, num_proc: int | None, name: str
) -> Dataset:
    """As `tokenize_problems`, first on the first process; warns of dropped rows, calling the dataset `name`.

    Raises:
        ValueError: no row is left, or as `tokenize_problems` does.
    """
    with global_then_local_main_first():
        problems, dropped = tokenize_problems(dataset, tokenizer, max_length, num_proc)
    for reason, names in dropped.items():
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        logger.warning(f"{name}: {len(names)} of {len(dataset)} rows dropped for {reason}: {shown}")
    if not len(problems):
        raise ValueError(f"{name}: no row is left to train on")
    return problems


def tokenize_problems(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, num_proc: int | None = None
) -> tuple[Dataset, dict[str, list[str]]]:
    """Tokenises pairs or traces.

    - *Pairs* (`chosen`, `rejected`, in the shapes of `redi.text.encoding.split_pair`) become `prompt_ids, chosen_ids,
      rejected_ids, name`.
    - *Traces* (`prompt`, `completion`, `label`, and optionally `weight`) become `prompt_ids, completion_ids, labels,
      weights, name`: rows with the same prompt are one problem, in the order of their first rows. A problem may have
      several traces of either side, or none of one.

    Problems that cannot be trained on are dropped: an empty completion, or a prompt that leaves no room in
    `max_length`. A dataset that already has such columns is returned unchanged.

    Args:
        dataset: pairs, traces, or what this function returned.
        tokenizer: with a chat template and an eos token.
        max_length: longest trace in tokens; longer ones are cut later.
        num_proc: processes to tokenise with.

    Returns:
        The problems, and the names of the dropped ones by reason.

    Raises:
        ValueError: the columns or a row have neither form; the message names the row.
    """
    columns = set(dataset.column_names)
    if set(PAIR_COLUMNS) <= columns or set(TRACE_COLUMNS) <= columns:
        return dataset, {}
    if not ({"chosen", "rejected"} <= columns or {"prompt", "completion", "label"} <= columns):
        raise ValueError(
            f"the dataset has the columns {sorted(columns)}; REDI trains on pairs (chosen, rejected: made by "
            "build_pairs.py) or on traces (prompt, completion, label)"
        )
    are_pairs = {"chosen", "rejected"} <= columns
    problems = dataset.map(
        _named,
        with_indices=True,
        fn_kwargs={"tokenizer": tokenizer, "function": _pair if are_pairs else _trace},
        remove_columns=dataset.column_names,
        num_proc=num_proc,
        desc="Tokenizing",
    )
    return _drop(problems if are_pairs else _group(problems), max_length)


def _named(
    row: dict[str, Any], index: int, tokenizer: PreTrainedTokenizerBase, function: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    name = str(row.get("uuid") or f"row {index}")
    try:
        return {**function(row, tokenizer), NAME: name}
    except ValueError as error:
        raise ValueError(f"{name} of the dataset: {error}") from error


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: list, completion: list) -> tuple[list[int], list[int]]:
    """As `encode`, but an assistant's turn without content has no tokens, so its row is dropped and counted."""
    prompt_ids, completion_ids = encode(tokenizer, prompt, completion)
    return prompt_ids, completion_ids if completion[-1]["content"] else []


def _pair(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    prompt, chosen, rejected = split_pair(row)
    prompt_ids, chosen_ids = _encode(tokenizer, prompt, chosen)
    rejected_ids = _encode(tokenizer, prompt, rejected)[1]
    return dict(zip(PAIR_COLUMNS, (prompt_ids, chosen_ids, rejected_ids), strict=True))


def _trace(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    prompt, completion, weight = row["prompt"], row["completion"], row.get("weight")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    weight = 1.0 if weight is None else weight
    if not weight > 0:
        raise ValueError(f"weight={weight} is not positive; leave the trace out instead")
    prompt_ids, completion_ids = _encode(tokenizer, prompt, completion)
    values = (prompt_ids, [completion_ids], [bool(row["label"])], [float(weight)])
    return dict(zip(TRACE_COLUMNS, values, strict=True))


def _group(traces: Dataset) -> Dataset:
    """Merges the rows of a prompt into one problem."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt_ids in enumerate(traces["prompt_ids"]):
        groups.setdefault(tuple(prompt_ids), []).append(index)

    def merged() -> Iterator[dict[str, Any]]:
        for prompt_ids, indices in groups.items():
            rows = traces[indices]
            lists = {column: sum(rows[column], []) for column in TRACE_COLUMNS[1:]}
            yield {"prompt_ids": list(prompt_ids), **lists, NAME: rows[NAME][0]}

    return Dataset.from_generator(merged)  # to disk, not to memory


def lengths_of(problems: Dataset) -> Iterator[tuple[int, list[int]]]:
    """Tokens of each problem's prompt and of each of its completions, without reading the tokens."""
    for table in problems.with_format("arrow").iter(1000):
        prompts = pc.list_value_length(table["prompt_ids"]).to_pylist()
        if "chosen_ids" in table.column_names:
            sides = (pc.list_value_length(table[side]).to_pylist() for side in PAIR_COLUMNS[1:])
            completions = map(list, zip(*sides, strict=True))
        else:
            flat = iter(pc.list_value_length(pc.list_flatten(table["completion_ids"])).to_pylist())
            counts = pc.list_value_length(table["completion_ids"]).to_pylist()
            completions = [list(islice(flat, count)) for count in counts]
        yield from zip(prompts, completions, strict=True)


def _drop(problems: Dataset, max_length: int | None) -> tuple[Dataset, dict[str, list[str]]]:
    dropped: dict[str, list[str]] = {}
    kept = []
    names = problems[NAME]
    for index, (prompt, completions) in enumerate(lengths_of(problems)):
        if not all(completions):
            dropped.setdefault("an empty completion", []).append(names[index])
        elif max_length is not None and prompt >= max_length:
            dropped.setdefault(f"a prompt that fills max_length={max_length}", []).append(names[index])
        else:
            kept.append(index)
    return problems.select(kept) if dropped else problems, dropped
