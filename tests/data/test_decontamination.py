"""The report of overlaps with benchmarks, and the rows without them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import fails, read_rows, run

BENCHMARK_ROWS = [
    {"id": "q0", "problem": "How many positive whole numbers n divide the number 5040?", "answer": "60"},
    {"id": "q1", "problem": "Find $2+2$.", "answer": "4"},
    {"id": "q2", "problem": "A train leaves at noon and stops every 7 minutes until midnight.", "answer": "103"},
]
FOREIGN = "Something else altogether, with enough words to make a few n-grams of it."
ROWS = [
    {"problem": "HOW  many positive\nwhole numbers n divide the cake?", "extra": [1]},  # 8 words of q0
    {"problem": "How many positive whole numbers n divide our cake?", "extra": None},  # 7 words of q0
    {"problem": FOREIGN, "extra": []},
    {"problem": None, "extra": [2, 3]},
    {"problem": "find $2+2$.", "extra": [4]},  # all of q1
    {"problem": f"{BENCHMARK_ROWS[2]['problem']} {BENCHMARK_ROWS[0]['problem']}", "extra": [5]},  # q0 and q2
]
KEPT = [1, 2, 3]


@pytest.fixture
def folder(tmp_path):
    """`bench.jsonl` with the questions, `more.jsonl` with one of them alone, and `corpus.parquet`."""
    write_jsonl(tmp_path / "bench.jsonl", BENCHMARK_ROWS)
    write_jsonl(tmp_path / "more.jsonl", [{"problem": BENCHMARK_ROWS[2]["problem"]}])
    schema = pa.schema([("problem", pa.string()), ("extra", pa.list_(pa.int64()))], {"kept": "too"})
    pq.write_table(pa.Table.from_pylist(ROWS, schema), tmp_path / "corpus.parquet")
    return tmp_path


def write_jsonl(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def arguments(folder, corpus="corpus.parquet"):
    return ["--input", folder / corpus, "--output", folder / "out", "--benchmark", folder / "bench.jsonl"]


def test_report(folder, capsys):
    run("decontaminate", *arguments(folder), "--jsonl", folder / "more.jsonl", "--show", 1)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["rows"] == 6
    assert report["rows_without_problem"] == 1
    assert report["overlapping_rows"] == 3
    assert report["benchmarks"] == {
        "bench": {"questions": 3, "short_questions": 1, "questions_hit": 3, "overlapping_rows": 3},
        "more": {"questions": 1, "short_questions": 0, "questions_hit": 1, "overlapping_rows": 1},
    }
    found = [(overlap["row"], overlap["benchmark"], overlap["id"]) for overlap in report["overlaps"]]
    assert found == [
        (0, "bench", "q0"),
        (4, "bench", "q1"),
        (5, "bench", "q2"),
        (5, "more", "row 1"),
        (5, "bench", "q0"),
    ]
    assert not list((folder / "out").glob("*.parquet"))
    lines = capsys.readouterr().out.splitlines()
    table = {cells[1]: cells[2:-1] for line in lines if (cells := [cell.strip() for cell in line.split("|")])[1:]}
    assert table["bench"] == ["3", "1", "3", "3", "50.00"]
    assert table["any"] == ["4", "1", "4", "3", "50.00"]
    assert "row 0 shares with q0 of bench: how many positive whole numbers n divide the" in lines
    assert "row 5 shares with row 1 of more: a train leaves at noon and stops every" in lines
    assert not any(line.startswith("row 4") for line in lines)  # --show 1 shows one a benchmark


def test_drop_keeps_the_other_rows_as_they_were(folder, capsys):
    run("decontaminate", *arguments(folder), "--drop")
    assert read_rows(folder / "out") == [ROWS[i] for i in KEPT]
    schema = pq.read_schema(folder / "out" / "train-00000-of-00001.parquet")
    assert schema.equals(pq.read_schema(folder / "corpus.parquet"), check_metadata=True)
    counts = json.loads((folder / "out" / "manifest.json").read_text())["counts"]
    assert (counts["input_rows"], counts["dropped"], counts["rows"]) == (6, {"overlaps a benchmark": 3}, 3)
    assert "dropped: overlaps a benchmark |" in (folder / "out" / "README.md").read_text()
    dataset = load_dataset(str(folder / "out"), split="train", cache_dir=str(folder / "cache"))
    assert dataset.to_list() == [ROWS[i] for i in KEPT]

    capsys.readouterr()
    run("decontaminate", *arguments(folder), "--drop")
    output = capsys.readouterr().out
    assert "already done" in output
    assert "| any " in output
    assert "pass --overwrite" in fails(capsys, "decontaminate", *arguments(folder))  # not the same options


def test_jsonl_and_folders_give_the_same(folder):
    write_jsonl(folder / "corpus.jsonl", [{key: value for key, value in row.items() if value != []} for row in ROWS])
    run("decontaminate", *arguments(folder, "corpus.jsonl"), "--drop")
    assert read_rows(folder / "out") == [ROWS[1], ROWS[2] | {"extra": None}, ROWS[3]]

    (folder / "raw").mkdir()
    for i in (0, 1):
        part = pq.read_table(folder / "corpus.parquet").slice(3 * i, 3)
        pq.write_table(part, folder / "raw" / f"{i}.parquet")
    run("decontaminate", *arguments(folder, "raw"), "--drop", "--overwrite")
    assert read_rows(folder / "out") == [ROWS[i] for i in KEPT]


@pytest.mark.parametrize("as_messages", [False, True])
@pytest.mark.parametrize("name", ["messages", "prompt"])
def test_positives_and_pairs(folder, name, as_messages):
    """In positives the problem is a user turn, in pairs the prompt; what the assistant says is not looked at."""

    def cell(problem):
        turns = [{"role": "system", "content": BENCHMARK_ROWS[0]["problem"]}, {"role": "user", "content": problem}]
        turns.append({"role": "assistant", "content": BENCHMARK_ROWS[0]["problem"]})
        return turns if as_messages or name == "messages" else problem

    rows = [{name: cell(row["problem"] or FOREIGN), "uuid": str(i)} for i, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "built.parquet")
    run("decontaminate", *arguments(folder, "built.parquet"), "--drop")
    assert read_rows(folder / "out") == [rows[i] for i in KEPT]


def test_all_five_are_needed_unless_some_are_named(folder, capsys):
    options = ["--input", folder / "corpus.parquet", "--output", folder / "out", "--benchmark-folder", folder]
    error = fails(capsys, "decontaminate", *options)
    assert "--benchmark math500" in error and "math500.jsonl is missing" in error
    assert not (folder / "out").exists()


def test_bad_input(folder, capsys):
    def error_of(*more, corpus="corpus.parquet", questions="bench.jsonl"):
        options = ["--input", folder / corpus, "--output", folder / "out", "--benchmark", folder / questions]
        error = fails(capsys, "decontaminate", *options, *more)
        assert not (folder / "out").exists()
        return error

    assert "does not exist" in error_of(corpus="nothing.parquet")
    assert "--ngram-words 0" in error_of("--ngram-words", 0)
    assert "another benchmark is named 'bench' too" in error_of("--jsonl", folder / "bench.jsonl")
    write_jsonl(folder / "blank.jsonl", [{"problem": FOREIGN}, {"problem": " "}])
    assert "blank.jsonl, row 2: 'problem' is empty or not text" in error_of("--jsonl", folder / "blank.jsonl")
    (folder / "empty.jsonl").write_text("")
    assert "empty.jsonl has no rows" in error_of("--jsonl", folder / "empty.jsonl")

    pq.write_table(pa.table({"question": ["a"]}), folder / "other.parquet")
    assert "has no column 'problem', 'messages' or 'prompt'; its columns are question" in error_of(
        corpus="other.parquet"
    )
    pq.write_table(pa.table({"problem": [1]}), folder / "number.parquet")
    assert "column 'problem' is int64" in error_of(corpus="number.parquet")
    write_jsonl(folder / "mixed.jsonl", [{"problem": "a"}, {"problem": 1}])
    assert "mixed.jsonl, line 2: key 'problem': Unable to merge: Field problem has incompatible types" in error_of(
        corpus="mixed.jsonl"
    )
    write_jsonl(folder / "objects.jsonl", [{"problem": "a", "notes": {}}, {"problem": "b", "notes": {}}])
    assert "key 'notes' holds only empty objects, {}" in error_of(corpus="objects.jsonl")
    pq.write_table(pa.Table.from_pylist([ROWS[0]]), folder / "hit.parquet")
    assert "no rows are left of 1" in error_of("--drop", corpus="hit.parquet")
    (folder / "raw").mkdir()
    for name in ("corpus", "hit"):
        (folder / "raw" / f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
    pq.write_table(pa.table({"problem": ["a"]}), folder / "raw" / "less.parquet")
    assert "less.parquet has other columns than corpus.parquet" in error_of(corpus="raw")
    fails(
        capsys, "decontaminate", "--input", folder / "raw", "--output", folder, "--benchmark", folder / "bench.jsonl"
    )
