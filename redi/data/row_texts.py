"""Reads the texts of pairs and positives: a side is a text, or messages whose content is a text or a list of parts."""

from typing import Any

import pyarrow as pa

from redi.runs.errors import UsageError
from redi.text.encoding import Message, split_row

SIDES = {"pairs": {"chosen": "chosen", "rejected": "rejected"}, "positives": {"messages": "response"}}


def side_columns(names: list[str]) -> dict[str, str]:
    """Column -> what its response is called, of pairs or of positives; a `UsageError` for neither."""
    for columns in SIDES.values():
        if columns.keys() <= set(names):
            return columns
    found = ", ".join(names)
    raise UsageError(
        f"--input holds neither pairs (chosen, rejected) nor positives (messages); its columns are {found}"
    )


def read_texts(batch: pa.RecordBatch, first_row: int) -> tuple[list[list[Message]], dict[str, list[str]]]:
    """The prompt of each row, as messages with text, and its responses: `chosen` and `rejected`, or `response`.

    Rows have the shapes of `redi.text.encoding.split_row`. Besides, a side may be text after a `prompt`, and content a
    list of text parts. A row of another shape is a `UsageError` that names it; the batch begins with row `first_row`.
    """
    sides = side_columns(batch.schema.names)
    kind = "pairs" if "chosen" in sides else "positives"
    wanted = [name for name in ("prompt", *sides) if name in batch.schema.names]
    prompts, responses = [], {name: [] for name in sides.values()}
    for number, row in enumerate(batch.select(wanted).to_pylist(), first_row):
        row |= {column: _messages(row[column], "assistant") for column in sides}
        if any(row[column] and len(row[column]) == 1 for column in sides):  # in a conversation a text is ignored
            row["prompt"] = _messages(row.get("prompt"), "user")
        try:
            prompt, turns = split_row(row, kind)
        except ValueError as error:
            raise UsageError(f"--input: row {number}: {error}; fix or drop the row") from None
        prompts.append(prompt)
        for texts, turn in zip(responses.values(), turns, strict=True):
            texts.append(turn[0]["content"])
    return prompts, responses


def _messages(value: Any, role: str) -> Any:
    """A text as a message, and messages with their parts joined; `split_row` checks the result."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        return value
    return [turn | {"content": _text(turn.get("content"))} if isinstance(turn, dict) else turn for turn in value]


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    return "".join(texts) if texts and all(isinstance(text, str) for text in texts) else content
