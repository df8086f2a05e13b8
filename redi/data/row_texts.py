"""Reads the texts of pairs and positives: a side is a text, or messages whose content is a text or a list of parts."""

from typing import Any

import pyarrow as pa

from redi.runs.errors import UsageError
from redi.text.encoding import Message

PAIRS = {"chosen": "chosen", "rejected": "rejected"}  # column -> what its response is called
POSITIVES = {"messages": "response"}


def side_columns(names: list[str]) -> dict[str, str]:
    """`PAIRS` or `POSITIVES`, whichever a dataset's columns hold; a `UsageError` for neither."""
    for columns in (PAIRS, POSITIVES):
        if columns.keys() <= set(names):
            return columns
    raise UsageError(
        f"--input holds neither pairs (chosen, rejected) nor positives (messages); its columns are {', '.join(names)}"
    )


def read_texts(batch: pa.RecordBatch, first_row: int) -> tuple[list[list[Message]], dict[str, list[str]]]:
    """The prompt of each row, as messages with text, and its responses: `chosen` and `rejected`, or `response`.

    A conversation ends with the assistant's turn, the response, after the prompt. The prompt of a text, or of an
    assistant's turn alone, is the column `prompt`.

    Args:
        batch: rows with the columns of `side_columns`, and optionally `prompt`.
        first_row: its place in the dataset, for messages.

    Raises:
        UsageError: naming the first row that cannot be read so, or whose sides have different prompts.
    """
    sides = side_columns(batch.schema.names)
    wanted = [name for name in ("prompt", *sides) if name in batch.schema.names]
    prompts, responses = [], {name: [] for name in sides.values()}
    for number, row in enumerate(batch.select(wanted).to_pylist(), first_row):
        for column, name in sides.items():
            try:
                prompt, response = _split(row, column)
                if len(prompts) == number - first_row:
                    prompts.append(prompt)
                if prompt != prompts[-1]:
                    raise ValueError("has another prompt than 'chosen'")
            except ValueError as error:
                raise UsageError(f"--input: row {number}: '{column}' {error}; fix or drop the row") from None
            responses[name].append(response)
    return prompts, responses


def _split(row: dict[str, Any], column: str) -> tuple[list[Message], str]:
    turns = _messages(row[column], "assistant")
    if len(turns) == 1 and row.get("prompt") is not None:
        turns = _messages(row["prompt"], "user") + turns
    roles = [turn["role"] for turn in turns]
    if len(turns) < 2 or roles[-1] != "assistant":
        found = ", ".join(roles) if roles else "nothing"
        raise ValueError(f"must end with an assistant's turn after a prompt, but holds {found}")
    return turns[:-1], turns[-1]["content"]


def _messages(value: Any, role: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(turn, dict) and turn.get("role") for turn in value):
        raise ValueError(f"is {str(value)[:40]}, neither text nor messages of role and content")
    return [{"role": turn["role"], "content": _text(turn.get("content"))} for turn in value]


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"has a turn whose content is {str(content)[:40]}, not text")
    return "".join(texts)
