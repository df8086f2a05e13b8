"""Every command of data_preprocess/ once through the real shell, from another folder."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.corpus import NUM_PAIRS, NUM_POSITIVES, REPOSITORY, ROWS, fails, run, write_corpus, write_jsonl

SCRIPTS = {path.stem for path in (REPOSITORY / "data_preprocess").glob("*.py")}
CASES = {
    "build_positives": (f"--input raw.parquet --output out --expect-rows {NUM_POSITIVES}", str(NUM_POSITIVES)),
    "build_pairs": (f"--input raw.parquet --output out --expect-rows {NUM_PAIRS}", str(NUM_PAIRS)),
    "ablate_verifiers": ("--input raw.parquet --output out", "out/inverted"),
    "shuffle_negatives": ("--input pairs --output out", f"{NUM_PAIRS} pairs, each with the negative of another"),
    "study_lengths": ("--input pairs --output out", f"Lengths of {NUM_PAIRS} rows, in characters"),
    "decontaminate": ("--input pairs --output out --benchmark bench.jsonl --drop", "Every overlap: out/report.json"),
    "verify": ("--input raw.parquet --output out", f"{len(ROWS)} rows"),
    "sample_teacher": (
        "--input problems.jsonl --output out --model MODEL --backend transformers --n 1 --max-tokens 4",
        "1 rows, 1 traces added",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder / "raw.parquet")
    write_jsonl(folder / "problems.jsonl", [{"problem": "1 + 1?", "answer": "2"}])
    write_jsonl(folder / "bench.jsonl", [{"id": 0, "problem": "one verifier first", "answer": "2"}])
    run("build_pairs", "--input", folder / "raw.parquet", "--output", folder / "pairs")
    return folder


def shell(folder: Path, name: str, arguments: str) -> subprocess.CompletedProcess:
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(REPOSITORY))}/data_preprocess/{name}.py {arguments}"
    return subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_from_the_shell(folder, model_path, name):
    arguments, message = CASES[name]
    output = f"out-{name}"
    arguments = arguments.replace("--output out", f"--output {output}").replace("MODEL", shlex.quote(model_path))
    result = shell(folder, name, arguments)
    assert result.returncode == 0, result.stderr
    assert message.replace("out/", f"{output}/") in result.stdout
    assert json.loads((folder / output / "manifest.json").read_text())["command"][0] == f"{name}.py"


def test_a_mistake_is_one_line_and_exit_code_2(folder):
    result = shell(folder, "build_pairs", f"--input raw.parquet --output wrong --expect-rows {NUM_PAIRS - 1}")
    assert result.returncode == 2
    assert result.stderr == f"error: --expect-rows {NUM_PAIRS - 1}: the result has {NUM_PAIRS} rows\n"
    assert result.stdout == "" and not (folder / "wrong").exists()


@pytest.mark.parametrize("name", sorted(SCRIPTS - {"study_lengths"}))  # which never asks whether it is finished
def test_a_broken_manifest_is_one_line(folder, capsys, monkeypatch, name):
    """Every command whose output folder holds a manifest that it cannot read."""
    monkeypatch.chdir(folder)
    output = folder / f"broken-{name}"
    output.mkdir(exist_ok=True)
    (output / "manifest.json").write_text('{"config": {')
    (output / "report.json").write_text("{}")
    arguments = CASES[name][0].replace("--output out", f"--output {output}").replace("MODEL", "teacher")
    assert f"{output / 'manifest.json'} is not readable JSON" in fails(capsys, name, *shlex.split(arguments))
