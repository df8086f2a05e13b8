"""Markdown tables: every table the project prints or writes is made here."""

import json
from typing import Any


def grid(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table that also reads well as plain text: first column to the left, the others to the right.

    Numbers get separators for thousands; text is escaped, so no cell can break the table.
    """
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    rule = "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths))
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,}"
    shown = value if value.isprintable() and value == value.strip() else json.dumps(value)
    return shown.replace("|", "\\|")
