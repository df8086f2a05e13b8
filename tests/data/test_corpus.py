"""Corpora unlike OpenR1's parquet: JSON lines, missing columns, and one-line errors for what cannot be read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpus import ROWS, SCHEMA, expected_pairs, fails, read_rows, row, run, write_corpus, write_jsonl

from redi.data.reading import text_files
from redi.data.reading.rows import open_corpus
from redi.data.reading.schema import SELECTION, VERIFIERS

LEAST = ["problem", "answer", "generations"]
VERDICTS = {"llama_verification": [True, False], "math_verify_reparsed_answer": [True, False]}
LINE = {"problem": "p", "answer": "1", "generations": ["right", "wrong"], "correctness": VERDICTS}


def rows_of(source, *columns):
    return [row for batch in open_corpus(str(source), *columns).batches for row in batch.to_pylist()]


def test_json_lines_give_the_same_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "BATCH_BYTES", 1000)
    (tmp_path / "raw").mkdir()
    write_jsonl(tmp_path / "raw" / "b.jsonl", ROWS[10:])
    write_jsonl(tmp_path / "raw" / "a.jsonl", ROWS[:10])
    run("build_pairs", "--input", tmp_path / "raw", "--output", tmp_path / "out")
    assert read_rows(tmp_path / "out") == expected_pairs(ROWS)


@pytest.mark.parametrize("write", [write_jsonl, write_corpus])
def test_missing_columns_have_their_defaults(tmp_path, write):
    path = tmp_path / ("raw.jsonl" if write is write_jsonl else "raw.parquet")
    rows = [row("one", [True, False], [True, False]), row("two", [False, True], [True, True])]
    rows = [{name: made[name] for name in (*LEAST, "correctness")} for made in rows]
    if write is write_jsonl:
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    run("build_pairs", "--input", path, "--output", tmp_path / "out", "--expect-rows", 2)
    whole = [{**made, "problem_is_valid": "Yes", "source": "unknown"} for made in rows]
    assert read_rows(tmp_path / "out") == expected_pairs(whole)


def test_a_key_that_one_line_lacks(tmp_path):
    path = write_jsonl(tmp_path / "raw.jsonl", [LINE | {"source": "aops"}, LINE, {**LINE, "source": None}])
    assert [made["source"] for made in rows_of(path)] == ["aops", "unknown", None]


def test_a_corpus_without_verdicts(tmp_path, capsys):
    rows = [{name: made[name] for name in LEAST} for made in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw.parquet")
    for path in (tmp_path / "raw.parquet", write_jsonl(tmp_path / "raw.jsonl", rows)):
        for name in ("build_pairs", "build_positives"):
            error = fails(capsys, name, "--input", path, "--output", tmp_path / "out")
            assert f"{path} has no column 'correctness.llama_verification'" in error
            assert "run verify.py first" in error
        made = rows_of(path, LEAST)
        assert [tuple(row) for row in made] == [(*LEAST, "original_index")] * len(ROWS)
        assert [[row[name] for name in LEAST] for row in made] == [[row[name] for name in LEAST] for row in rows]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem": "p", "generations": [', ", line 3: not valid JSON (Expecting value at column 34)"),
        ('["p"]', ", line 3: not a JSON object but list"),
        (b'{"problem": "\xff"}', ", line 3: not UTF-8"),
        (
            json.dumps(LINE | {"problem": 7}),
            ", line 3: key 'problem': Unable to merge: Field problem has incompatible types: string vs int64",
        ),
        (json.dumps(LINE | {"generations": "text"}), ", line 3: key 'generations': Unable to merge"),
        (json.dumps(LINE | {"generations": [["text"]]}), ", line 3: key 'generations': Unable to merge"),
        (json.dumps(LINE | {"correctness": {VERIFIERS[0]: [1]}}), ", line 3: key 'correctness': Unable to merge"),
        (json.dumps(LINE | {"problem": "\ud800"}), ", line 3: key 'problem': 'utf-8' codec can't encode"),
        ('{"problem": "p", "problem": "q"}', ", line 3: key 'problem' occurs twice"),
        ("[" * 100_000, ", line 3: "),
    ],
)
def test_a_malformed_line(tmp_path, capsys, line, message):
    path = tmp_path / "raw.jsonl"
    text = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(LINE).encode() + b"\n\n" + text + b"\n" + json.dumps(LINE).encode())
    error = fails(capsys, "build_pairs", "--input", path, "--output", tmp_path / "out")
    assert f"{path}{message}" in error
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_line_without_a_column(tmp_path, capsys):
    path = write_jsonl(tmp_path / "raw.jsonl", [{"question": "p"}])
    error = fails(capsys, "build_pairs", "--input", path, "--output", tmp_path / "out")
    assert "has no column 'problem'; its columns are question" in error


def test_folders_of_two_kinds_and_empty_files(tmp_path, capsys):
    write_corpus(tmp_path / "raw.parquet")
    write_jsonl(tmp_path / "raw.jsonl")
    error = fails(capsys, "build_pairs", "--input", tmp_path, "--output", tmp_path / "out")
    assert "holds both .parquet and .jsonl files" in error
    (tmp_path / "empty.jsonl").write_text("\n \n")
    error = fails(capsys, "build_pairs", "--input", tmp_path / "empty.jsonl", "--output", tmp_path / "out")
    assert "no rows are left; it has none to begin with" in error


def test_large_rows_come_in_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("redi.data.reading.parquet.BATCH_BYTES", 10_000)
    rows = [row(f"{i}", [True] * 4, [True] * 4, generations=[f"{i}{k}" * 300 for k in range(4)]) for i in range(100)]
    path = tmp_path / "raw.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, use_dictionary=False)
    sizes = [len(batch) for batch in open_corpus(str(path), SELECTION).batches]
    # Four texts of 600 or, for most rows, 900 characters: at most 4 rows fit into 10,000 bytes.
    assert sum(sizes) == 100
    assert max(sizes) <= 4
