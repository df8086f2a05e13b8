"""Markdown tables: every table the project prints or writes is made here; and Markdown on a terminal."""

import json
import re
import shutil
import sys
import textwrap
from itertools import groupby
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


def fold(text: str, width: int | None = None) -> str:
    """Markdown for a terminal: wraps lines, and splits a table that is too wide into several with its first column.

    Args:
        text: with tables of `grid`.
        width: characters of a line; by default those of the terminal. What goes elsewhere is not folded.
    """
    if width is None and not sys.stdout.isatty():
        return text
    width = width or shutil.get_terminal_size().columns
    parts = []
    for is_table, lines in groupby(text.split("\n"), key=lambda line: line.startswith("|")):
        if is_table:
            parts += _fold_table(list(lines), width)
        else:
            for line in lines:
                indent = "  " if line.startswith("- ") else ""
                parts += textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False) or [""]
    return "\n".join(parts)


def _fold_table(lines: list[str], width: int) -> list[str]:
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    widths = [len(cell) + 1 for cell in cells[0]]
    groups: list[list[int]] = [[]]  # of columns after the first
    for column in range(1, len(widths)):
        if groups[-1] and 1 + widths[0] + sum(widths[i] for i in (*groups[-1], column)) > width:
            groups.append([])
        groups[-1].append(column)
    tables = [["|".join(["", *(row[i] for i in (0, *group)), ""]) for row in cells] for group in groups]
    return [line for table in tables for line in (*table, "")][:-1]


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,}"
    shown = value if value.isprintable() and value == value.strip() else json.dumps(value)
    return shown.replace("|", "\\|")
