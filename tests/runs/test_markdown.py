"""Markdown tables."""

from redi.runs.markdown import grid


def test_columns_are_aligned():
    assert grid(["a", "b"], [["long", "1"]]) == "| a    | b |\n|------|--:|\n| long | 1 |"


def test_numbers_get_separators_and_text_cannot_break_the_table():
    lines = grid(["source", "rows"], [["a|b", 1234], ["x\n", 0.5]]).splitlines()
    assert lines[2:] == [r"| a\|b   | 1,234 |", r'| "x\n"  |   0.5 |']
