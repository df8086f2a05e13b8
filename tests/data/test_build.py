"""The builds of positives and pairs: output folders, finished work, and one-line errors with exit code 2."""

import json
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import NUM_PAIRS, NUM_POSITIVES, REPOSITORY, ROWS, SCHEMA, fails, read_rows, run, write_corpus

COMMANDS = {"build_positives": NUM_POSITIVES, "build_pairs": NUM_PAIRS}


@pytest.mark.parametrize("name", COMMANDS)
def test_table_of_counts(corpus, tmp_path, capsys, name):
    run(name, "--input", corpus, "--output", tmp_path / "out", "--expect-rows", COMMANDS[name])
    table = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    numbers = {label.strip(): int(number) for label, number in table}
    assert numbers["input rows"] == len(ROWS)
    assert numbers["kept"] == COMMANDS[name] == len(read_rows(tmp_path / "out"))
    # Drops are shown as negative numbers, so the lines above the last add up to it.
    assert sum(numbers.values()) == 2 * COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_load_dataset_returns_exactly_the_rows(corpus, tmp_path, name):
    run(name, "--input", corpus, "--output", tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.to_list() == read_rows(tmp_path / "out")
    assert len(dataset) == COMMANDS[name]


def test_manifest(corpus, tmp_path):
    run("build_pairs", "--input", corpus, "--output", tmp_path / "out", "--seed", 7)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    options = {"negatives": "not-both", "exclude_source": ["cn_k12"], "truncated": "keep", "seed": 7}
    assert manifest["config"] == options
    assert manifest["inputs"]["corpus"]["path"] == str(corpus)
    assert manifest["counts"]["files"] == {"train-00000-of-00001.parquet": NUM_PAIRS}
    assert manifest["seed"] == 7


def test_finished_output_is_not_built_again(corpus, tmp_path, capsys):
    options = ["--input", corpus, "--output", tmp_path / "out"]
    run("build_pairs", *options)
    file = tmp_path / "out" / "train-00000-of-00001.parquet"
    written = file.stat().st_mtime_ns
    capsys.readouterr()
    run("build_pairs", *options, "--expect-rows", NUM_PAIRS)
    assert "already done" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == written
    assert "--expect-rows 3" in fails(capsys, "build_pairs", *options, "--expect-rows", 3)
    assert file.stat().st_mtime_ns == written
    run("build_pairs", *options, "--overwrite")
    assert file.stat().st_mtime_ns > written


def test_other_options_or_input_are_not_treated_as_finished(corpus, tmp_path, capsys):
    options = ["--input", corpus, "--output", tmp_path / "out"]
    run("build_pairs", *options)
    before = read_rows(tmp_path / "out")
    assert "pass --overwrite" in fails(capsys, "build_pairs", *options, "--seed", 1)
    write_corpus(corpus, ROWS[:10])
    assert "pass --overwrite" in fails(capsys, "build_pairs", *options)
    assert read_rows(tmp_path / "out") == before
    run("build_pairs", *options, "--overwrite")
    assert {pair["original_index"] for pair in read_rows(tmp_path / "out")} == {0, 1, 2, 6, 7}


def test_an_output_without_its_parquet_is_not_treated_as_finished(corpus, tmp_path, capsys):
    options = ["--input", corpus, "--output", tmp_path / "out"]
    run("build_pairs", *options)
    (tmp_path / "out" / "train-00000-of-00001.parquet").unlink()
    assert "pass --overwrite" in fails(capsys, "build_pairs", *options)


def test_a_failed_overwrite_leaves_the_old_output(corpus, tmp_path, capsys):
    options = ["--input", corpus, "--output", tmp_path / "out"]
    run("build_pairs", *options)
    before = read_rows(tmp_path / "out")
    fails(capsys, "build_pairs", *options, "--overwrite", "--expect-rows", 3)
    assert read_rows(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw.parquet"]


def test_the_output_must_not_replace_the_input(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    corpus = write_corpus(tmp_path / "raw" / "raw.parquet")
    for output in (tmp_path / "raw", tmp_path):
        error = fails(capsys, "build_pairs", "--input", tmp_path / "raw", "--output", output, "--overwrite")
        assert "holds the input" in error
    assert corpus.is_file()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("column", ["problem", "generations", "correctness.llama_verification"])
def test_missing_column(tmp_path, capsys, name, column):
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    if "." in column:
        one_verifier = pa.array([{"math_verify_reparsed_answer": [True]}] * len(ROWS))
        table = table.set_column(table.schema.names.index("correctness"), "correctness", one_verifier)
    else:
        table = table.drop_columns(column)
    pq.write_table(table, tmp_path / "raw.parquet")
    error = fails(capsys, name, "--input", tmp_path / "raw.parquet", "--output", tmp_path / "out")
    assert f"{tmp_path / 'raw.parquet'} has no column '{column}'" in error
    assert not (tmp_path / "out").exists()


def test_column_of_another_type(tmp_path, capsys):
    table = pa.Table.from_pylist(ROWS, schema=SCHEMA)
    index = table.schema.names.index("generations")
    table = table.set_column(index, "generations", pa.array(["text"] * len(ROWS)))
    pq.write_table(table, tmp_path / "raw.parquet")
    error = fails(capsys, "build_pairs", "--input", tmp_path / "raw.parquet", "--output", tmp_path / "out")
    assert "column 'generations' is string" in error


def test_unreadable_parquet(corpus, tmp_path, capsys):
    whole = corpus.read_bytes()
    damaged = bytearray(whole)
    damaged[4:400] = bytes(396)  # the first column's pages; the footer stays readable
    for content in (whole[: len(whole) // 2], b"", b"no parquet", bytes(damaged)):
        corpus.write_bytes(content)
        error = fails(capsys, "build_pairs", "--input", corpus, "--output", tmp_path / "out")
        assert f"cannot read {corpus} as parquet" in error
        assert list(tmp_path.iterdir()) == [corpus]


def test_unusable_inputs(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "holds no .parquet, .jsonl, .ndjson, .json or .csv"),
        (tmp_path / "missing.parquet", "does not exist"),
        ("folder/missing.parquet", "does not exist"),
        ("not-a-hub-id", "does not exist"),
    ):
        assert message in fails(capsys, "build_positives", "--input", source, "--output", tmp_path / "out")


def test_nothing_left(tmp_path, capsys):
    for rows, message in ((ROWS[3:6], "dropped: problem not valid 2, source excluded 1"), ([], "none to begin with")):
        corpus = write_corpus(tmp_path / "raw.parquet", rows)
        error = fails(capsys, "build_pairs", "--input", corpus, "--output", tmp_path / "out")
        assert "no rows are left" in error
        assert message in error
        assert list(tmp_path.iterdir()) == [corpus]


def test_a_selected_null_generation(tmp_path, capsys):
    rows = [*ROWS[:2], {**ROWS[2], "generations": [None, "text"]}]
    corpus = write_corpus(tmp_path / "raw.parquet", rows)
    error = fails(capsys, "build_positives", "--input", corpus, "--output", tmp_path / "out")
    assert "row 2: generation 0 is selected but null" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed: must be a whole number of at least 0"),
        (["--expect-rows", "many"], "--expect-rows: must be a whole number of at least 0"),
        (["--exclude-source", "aops", "--keep-all-sources"], "--keep-all-sources: not allowed with"),
        (["--exclude-sources", "aops"], "did you mean '--exclude-source'"),
        (["--negatives", "none"], "invalid choice: 'none'"),
        (["--revision", "main"], "--revision main needs a Hub dataset"),
    ],
)
def test_wrong_options(corpus, tmp_path, capsys, arguments, message):
    assert message in fails(capsys, "build_pairs", "--input", corpus, "--output", tmp_path / "out", *arguments)


@pytest.mark.parametrize("limit", [100, 20_000])  # the first bucket does not fit into a file, or the picture
def test_full_disk(corpus, tmp_path, limit):
    script = [sys.executable, str(REPOSITORY / "data_preprocess" / "build_pairs.py")]
    result = subprocess.run(
        [*script, "--input", str(corpus), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2
    message = f"error: --output {tmp_path / 'out'}: file too large; make room, or choose a folder on another disk\n"
    assert result.stderr == message
    assert list(tmp_path.iterdir()) == [corpus]


def test_a_folder_that_cannot_be_created(corpus, capsys):
    assert "cannot be made" in fails(capsys, "build_pairs", "--input", corpus, "--output", corpus / "out")
