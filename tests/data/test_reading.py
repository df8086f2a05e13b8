"""One reader for all commands: formats, encodings, folders with other files, and shards that differ."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpus import ROWS, SCHEMA, fails, read_rows, run, write_corpus, write_jsonl

from redi.data.reading import text_files
from redi.data.reading.data_files import data_files
from redi.data.reading.rows import open_corpus, open_rows
from redi.runs.errors import UsageError

PLAIN = [{"problem": f"What is {i} + 1?", "answer": str(i + 1), "level": i} for i in range(5)]


def rows_of(source) -> list[dict]:
    return [row for batch in open_rows(str(source)).batches() for row in batch.to_pylist()]


def lines(rows, end="\n") -> bytes:
    return "".join(json.dumps(row) + end for row in rows).encode()


def as_csv(rows) -> bytes:
    cells = [",".join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows]
    return "\r\n".join([",".join(rows[0]), *cells]).encode()


WHOLE = {
    "rows.jsonl": lines(PLAIN),
    "rows.ndjson": lines(PLAIN, "\r\n"),
    "cr.jsonl": lines(PLAIN, "\r"),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(PLAIN),
    "lines.json": lines(PLAIN),
    "array.json": json.dumps(PLAIN, indent=2).encode(),
    "bom.json": b"\xef\xbb\xbf \n" + json.dumps(PLAIN).encode(),
    "rows.jsonl.gz": gzip.compress(lines(PLAIN), mtime=0),
    "rows.json.bz2": bz2.compress(json.dumps(PLAIN).encode()),
    "rows.jsonl.xz": lzma.compress(lines(PLAIN)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_same_rows_in_every_format(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_files, "BATCH_BYTES", 100)  # a batch is two rows
    (tmp_path / name).write_bytes(WHOLE[name])
    assert rows_of(tmp_path / name) == PLAIN
    assert open_rows(str(tmp_path / name)).num_rows == len(PLAIN)


def test_csv_cells_are_text(tmp_path):
    rows = [{"problem": 'two\nlines, "quoted"', "answer": "007"}, {"problem": "", "answer": "1.50"}]
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(rows))
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(as_csv(rows)))
    assert rows_of(tmp_path / "rows.csv") == rows_of(tmp_path / "rows.csv.gz") == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"a,b\n1,2\n3\n", "rows.csv, line 3: a row must have 2 cells"),
        ("rows.csv", b"a,b\n1,2,3\n", "rows.csv, line 2: a row must have 2 cells"),
        ("rows.csv", b"a,a\n1,2\n", "two columns have the same name"),
        ("rows.csv", b"a\n\xff\n", "can't decode"),
        ("rows.csv", b'a\n"open', "unexpected end of data"),
        ("rows.json", b'[{"a": 1}, 2]', "rows.json, row 2: not a JSON object but int"),
        ("rows.json", b'[{"a": 1}', "rows.json: not valid JSON"),
        ("rows.jsonl", lines([{"a": 1}, {"a": "x"}]), "rows.jsonl, line 2: key 'a': Unable to merge"),
        ("rows.jsonl", lines([{"a": 1}, {"a": True}]), "rows.jsonl, line 2: key 'a'"),
        ("rows.jsonl", lines([{"a": 1}, {"a": 2**70}]), "rows.jsonl, line 2: key 'a': Python int too large"),
        ("rows.jsonl", lines([{"a": {"b": 1}}, {"a": {"b": "x"}}]), "rows.jsonl, line 2: key 'a'"),
        ("rows.jsonl", lines([{"a": "\ud800"}]), "rows.jsonl, line 1: key 'a': 'utf-8' codec can't encode"),
        ("rows.jsonl", lines([{"\ud800": 1}]), "rows.jsonl, line 1: key '"),
        ("rows.jsonl", lines([{"a": 2**60 + 1}, {"a": 0.5}]), "rows.jsonl, line 1: key 'a': Integer value"),
        ("rows.jsonl", '{"a": "é"}'.encode("latin-1"), "rows.jsonl, line 1: not UTF-8"),
        ("rows.jsonl", '{"a": 1}\n'.encode("utf-16"), "rows.jsonl, line 1: not"),
        ("rows.jsonl.gz", gzip.compress(lines(PLAIN), mtime=0)[:-20], "rows.jsonl.gz: damaged"),
        ("rows.jsonl.gz", lines(PLAIN), "rows.jsonl.gz: damaged"),
        ("rows.jsonl.xz", lines(PLAIN), "rows.jsonl.xz: damaged"),
        ("rows.xlsx", b"PK", "the format '.xlsx' is not read; give .parquet, .jsonl"),
        ("rows.parquet.gz", b"", "the format '.gz' is not read"),
        ("rows.gz", b"", "the format '.gz' is not read"),
        ("rows", b"", "the format '' is not read"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as raised:
        rows_of(tmp_path / name)
    assert message in str(raised.value)


def test_answers_that_are_numbers_are_text_and_counted(tmp_path, capsys):
    answers = [3, "x", 2.5, None, 2**70]
    rows = [{"problem": "p", "answer": answer, "generations": ["a"]} for answer in answers]
    write_jsonl(tmp_path / "raw.jsonl", rows)
    pq.write_table(pa.table({"answer": pa.array([3, None, 4]), "problem": ["p"] * 3}), tmp_path / "raw.parquet")
    for name, expected, number in (
        ("raw.jsonl", ["3", "x", "2.5", None, str(2**70)], 3),
        ("raw.parquet", ["3", None, "4"], 2),
    ):
        rows = open_rows(str(tmp_path / name))
        assert (rows.number_answers, [row["answer"] for row in rows_of(tmp_path / name)]) == (number, expected)
        assert f"{name}: {number} answers are numbers, and are read as text" in capsys.readouterr().out
    with pytest.raises(UsageError, match="line 2: key 'answer'"):
        open_rows(str(write_jsonl(tmp_path / "true.jsonl", [{"answer": 1}, {"answer": True}])))
    run("verify", "--input", tmp_path / "raw.jsonl", "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["number_answers"] == 3


def test_keys_that_the_first_rows_lack(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "BATCH_BYTES", 1)  # a batch is a row
    rows = [{"a": None}, {"b": [], "c": {}}, {"a": 1, "b": [None]}, {"a": 0.5, "b": ["x"], "c": {"d": None}}]
    made = rows_of(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [row["a"] for row in made] == [None, None, 1.0, 0.5]
    assert [row["b"] for row in made] == [None, [], [None], ["x"]]


TEXT, VIEW, LARGE = pa.string(), pa.string_view(), pa.large_string()


def struct(*names, text=TEXT):
    return pa.struct([(name, text) for name in names])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TEXT, VIEW),
        (LARGE, TEXT),
        (VIEW, LARGE),
        (pa.dictionary(pa.int32(), TEXT), TEXT),
        (pa.null(), TEXT),
        (pa.list_(TEXT), pa.large_list(VIEW)),
        (pa.list_(pa.null()), pa.list_(TEXT)),
        (struct("x", "y"), struct("y", "x", text=LARGE)),
        (pa.list_(struct("x", "y")), pa.list_(struct("y", "x"))),
        (pa.int32(), pa.int64()),
    ],
)
def test_shards_may_store_a_type_differently(tmp_path, first, second):
    def values(type_):
        made = {"x": "1", "y": None} if pa.types.is_struct(type_) else 1 if pa.types.is_integer(type_) else "text"
        return None if pa.types.is_null(type_) else made

    def column(type_):
        if pa.types.is_list(type_) or pa.types.is_large_list(type_):
            return pa.array([[values(type_.value_type)], None], type_)
        return pa.array([values(type_), None], type_)

    expected = []
    for name, type_ in (("a", first), ("b", second), ("c", first)):
        table = pa.table({"n": pa.array([1, 2]), "value": column(type_)})
        pq.write_table(table if name == "a" else table.select(["value", "n"]), tmp_path / f"{name}.parquet")
        expected += table.to_pylist()
    assert rows_of(tmp_path) == expected
    for batch in open_rows(str(tmp_path)).batches():  # a view cannot be filtered, and a dictionary not joined
        assert len(pa.Table.from_batches([batch]).filter(pa.array([True] * len(batch)))) == len(batch)


def test_nullability_may_differ(tmp_path):
    for name, nullable in (("a", True), ("b", False)):
        schema = pa.schema([pa.field("problem", TEXT, nullable)], {"said": "by datasets"})
        pq.write_table(pa.table({"problem": ["p"]}, schema=schema), tmp_path / f"{name}.parquet")
    assert rows_of(tmp_path) == [{"problem": "p"}] * 2
    assert open_rows(str(tmp_path)).schema.field("problem").nullable


def test_types_that_do_not_fit(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="b.parquet does not fit a.parquet.* Field n has incompatible types"):
        open_rows(str(tmp_path))


def test_duplicate_columns(tmp_path, capsys):
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    pq.write_table(table.append_column("problem", table["problem"]), tmp_path / "raw.parquet")
    for name in ("build_pairs", "verify", "decontaminate"):
        error = fails(capsys, name, "--input", tmp_path / "raw.parquet", "--output", tmp_path / "out")
        assert "two columns are named 'problem'" in error or "--benchmark" in error


def test_verifier_columns_of_openr1_math_220k(tmp_path, capsys):
    names = {"llama_verification": "correctness_llama", "math_verify_reparsed_answer": "correctness_math_verify"}
    flat = [
        {key: value for key, value in row.items() if key != "correctness"}
        | {column: (row["correctness"] or {}).get(name) for name, column in names.items()}
        for row in ROWS
    ]
    write_jsonl(tmp_path / "flat.jsonl", flat)
    pq.write_table(pa.Table.from_pylist(flat), tmp_path / "flat.parquet")
    run("build_pairs", "--input", write_corpus(tmp_path / "raw.parquet"), "--output", tmp_path / "nested")
    for name in ("flat.jsonl", "flat.parquet"):
        capsys.readouterr()
        run("build_pairs", "--input", tmp_path / name, "--output", tmp_path / f"from-{name}")
        assert "'correctness_llama' is read as 'llama_verification'" in capsys.readouterr().out
        assert read_rows(tmp_path / f"from-{name}") == read_rows(tmp_path / "nested")
        run("verify", "--input", tmp_path / name, "--output", tmp_path / f"verified-{name}")
        for old, new in zip(flat, read_rows(tmp_path / f"verified-{name}"), strict=True):
            for field, column in names.items():  # labels are kept, and missing ones filled
                assert new[column] == old[column]
                graded = [False] * len(old["generations"] or [])
                assert new["correctness"][field] == (old[column] if old[column] is not None else graded or None)


def folder_of(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "read", "not_read"),
    [
        (["train-0.parquet", "test-0.parquet", "validation.parquet"], ["train-0.parquet"], ["test-0", "validation"]),
        (["math_train.jsonl", "math_test.jsonl"], ["math_train.jsonl"], ["math_test.jsonl"]),
        (["b.jsonl", "a.jsonl.gz", "c.ndjson"], ["a.jsonl.gz", "b.jsonl", "c.ndjson"], []),
        (["a.parquet", "more/b.parquet", "more/c.parquet"], ["a.parquet"], ["more/ (2 files)"]),
        (["a.parquet", "notes.txt", "a.arrow"], ["a.parquet"], ["notes.txt", "a.arrow"]),
        (["a.parquet", ".hidden.parquet", ".cache/b.parquet", "README.md", "manifest.json"], ["a.parquet"], []),
        (["test-0.parquet"], ["test-0.parquet"], []),
        (["trained.parquet", "latest.parquet"], ["latest.parquet", "trained.parquet"], []),
    ],
)
def test_what_is_read_of_a_folder_is_said(tmp_path, capsys, names, read, not_read):
    assert [file.name for file in data_files(folder_of(tmp_path, *names))] == read
    said, _, left_out = capsys.readouterr().out.partition("not read: ")
    assert all(name in said for name in read) and all(name in left_out for name in not_read)
    assert bool(left_out) == bool(not_read)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-0.parquet", "extra.parquet"], "which files are the split 'train'"),
        (["test.parquet", "validation.parquet"], "which files are the split 'train'"),
        (["a.parquet", "a.jsonl"], "holds both .parquet and .jsonl files"),
        (["a.csv", "a.json"], "holds both .json and .csv files"),
        (["a.jsonl", "a.jsonl.gz"], "holds 'a.jsonl' 2 times"),
        (["data/a.parquet", "more/b.parquet"], "it holds data/ (1 files), more/ (1 files): give one of them"),
        (["notes.txt"], "holds no .parquet"),
        ([], "holds no .parquet"),
    ],
)
def test_a_folder_that_is_ambiguous_is_refused(tmp_path, names, message):
    with pytest.raises(UsageError) as raised:
        data_files(folder_of(tmp_path, *names))
    assert message in str(raised.value)


def test_field_cases(shared, tmp_path, capsys):
    """Files from the field, each through a command that passes all columns on and one that reads a few."""
    folder = shared / "field" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    # Rows that verify writes and pairs that build_pairs writes; None where the command must refuse in one line.
    cases = {"bigint": (None, 2), "bom": (6, 6), "cr_only": (6, 6), "extra_mixed": (None, 2), "latin1": (None, None)}
    cases |= {"first_row_lacks_gens": (2, 1), "gens_null_in": (1, None), "int_answer": (3, 3)}
    cases |= {"surrogate_extra": (None, 2), "surrogate_gen": (None, None), "truncated": (None, None)}
    files = {folder / "jsonl" / f"{name}.jsonl": counts for name, counts in cases.items()}
    files |= {folder / "jsonl" / name: (6, 6) for name in ("array.json", "lines.ndjson", "raw.jsonl.gz")}
    files |= {folder / "jsonl" / "verdict_first_null.jsonl": (3, 2)}
    files |= {folder / "parquet" / "dup_columns.parquet": (None, None), folder / "folders" / "zero_byte": (None, None)}
    for file, counts in files.items():
        for name, count in zip(("verify", "build_pairs"), counts, strict=True):
            options = ["--input", file, "--output", tmp_path / f"{name}-{file.name}"]
            if count is None:
                error = fails(capsys, name, *options)
                assert file.name in error or "row 0: generation 0 is selected but null" in error
                assert not (tmp_path / f"{name}-{file.name}").exists()
            else:
                run(name, *options)
                assert len(read_rows(tmp_path / f"{name}-{file.name}")) == count, (file, name)
    sizes = {"mixed_order": 60, "mixed_nullable": 60, "train_and_test": 30}
    for name, size in sizes.items():
        assert len(rows_of(folder / "folders" / name)) == open_corpus(str(folder / "folders" / name)).num_rows == size
    assert len(rows_of(folder / "parquet" / "pa_view.parquet")) == 60
    assert "not read: test-00000-of-00001.parquet" in capsys.readouterr().out
