"""JSON lines: rows with their line numbers, and errors that name file and line."""

import json

import pytest

from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl, iter_lines, line


def test_what_is_written_is_read_back(tmp_path):
    rows = [{"text": "half a surrogate \ud800 and \u03c0"}, {"text": "two\nlines"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(map(line, rows)), encoding="ascii")
    assert list(iter_jsonl(path, ["text"])) == rows


def test_blank_lines_count_but_give_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n \r\n{"a": 2}')
    assert list(iter_lines(path)) == [(1, 9, {"a": 1}), (4, 8, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": ', "line 2: not valid JSON (Expecting value at column 6)"),
        (b'"text"', "line 2: not a JSON object but str"),
        (b'{"a": "\xff"}', "line 2: not UTF-8"),
        (b'{"b": 1}', "line 2: no 'a'"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps({"a": 1}).encode() + b"\n" + text + b"\n")
    with pytest.raises(UsageError) as raised:
        list(iter_jsonl(path, ["a"]))
    assert str(raised.value).startswith(f"{path}, {message}")


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        list(iter_jsonl(tmp_path / "rows.jsonl"))
