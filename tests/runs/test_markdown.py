"""Markdown tables."""

import os
import sys

import pytest

from redi.runs.markdown import fold, grid


def test_columns_are_aligned():
    assert grid(["a", "b"], [["long", "1"]]) == "| a    | b |\n|------|--:|\n| long | 1 |"


def test_numbers_get_separators_and_text_cannot_break_the_table():
    lines = grid(["source", "rows"], [["a|b", 1234], ["x\n", 0.5]]).splitlines()
    assert lines[2:] == [r"| a\|b   | 1,234 |", r'| "x\n"  |   0.5 |']


WIDE = grid(["name", "first", "second", "third"], [["a|b", 1, 2, 3]])


def test_a_table_that_is_too_wide_is_split_and_keeps_its_first_column():
    assert fold(WIDE, len(WIDE.splitlines()[0])) == WIDE
    folded = fold(WIDE, 26)
    assert folded == "\n\n".join(
        [grid(["name", "first", "second"], [["a|b", 1, 2]]), grid(["name", "third"], [["a|b", 3]])]
    )


@pytest.mark.parametrize("width", [10, 40, 100])
def test_folded_text_loses_nothing_and_fits(width):
    notes = "- note: " + "word " * 50 + "\n\nafter"
    folded = fold(f"{WIDE}\n\n{notes}", width)
    assert folded.split("\n\n", folded.count("| name"))[-1].split() == notes.split()
    assert all(len(line) <= max(width, 17) for line in folded.splitlines())


def test_text_is_folded_only_on_a_terminal(monkeypatch):
    assert fold(WIDE * 9) == WIDE * 9
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((26, 40)))
    assert fold(WIDE) == fold(WIDE, 26) != WIDE
