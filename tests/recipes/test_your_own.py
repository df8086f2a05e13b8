"""docs/your_own.md as a new user follows it: its examples are read, and its commands run as they are written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from helpers.paths import REPOSITORY

from redi.data.training_data import load_rows
from redi.data.verification import verify
from redi.evaluation.benchmarks import load_benchmarks
from redi.text.training_rows import prepare_rows

PAGE = (REPOSITORY / "docs/your_own.md").read_text()
PROBLEMS, TRACES, PAIRS, LABELLED = (
    [json.loads(line) for line in block.splitlines()]
    for block in re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
)
COMMANDS, COMPARISON = (block.splitlines() for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
SUMS = [(3, 4), (2, 6), (9, 5), (8, 7), (5, 5), (20, 8), (7, 7), (10, 20), (5, 4), (30, 12)]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_path_has_at_most_eight_commands_and_examples_of_three_lines():
    assert len(COMMANDS) <= 8 and not any(line.endswith("\\") for line in COMMANDS)
    assert all(len(example) == 3 for example in (PROBLEMS, TRACES, PAIRS, LABELLED))


def test_the_examples_of_problems_and_traces_are_read(tmp_path):
    (benchmark,) = load_benchmarks([str(write_lines(tmp_path / "test.jsonl", PROBLEMS))], tmp_path)
    assert len(benchmark.problems) == 3
    verify(str(write_lines(tmp_path / "traces.jsonl", TRACES)), tmp_path / "verified")
    labels = [
        row["correctness"]["math_verify_reparsed_answer"] for row in load_rows(str(tmp_path / "verified"), "train")
    ]
    assert labels == [[True, False], [True], [False]]


@pytest.mark.parametrize("rows, kind", [(PAIRS, "pairs"), (LABELLED, "traces")])
def test_the_examples_of_pairs_and_labelled_traces_are_trained_on(rows, kind, tokenizer, tmp_path):
    dataset = load_rows(str(write_lines(tmp_path / "rows.jsonl", rows)), "train")
    problems, counts = prepare_rows(dataset, (kind,), tokenizer, None)
    assert (counts["rows"], counts["dropped_empty"]) == (3, 0)
    assert len(problems) == (3 if kind == "pairs" else 1)


@pytest.fixture(scope="module")
def model(request) -> str:
    """The real model, or where it cannot be made, the tiny one."""
    try:
        return str(request.getfixturevalue("real_path"))
    except pytest.skip.Exception:
        return request.getfixturevalue("model_path")


@pytest.mark.real
def test_the_commands_run_as_they_are_written(model, tmp_path):
    for name in ("configs", "data_preprocess", "recipes", "redi", "scripts"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("mine"))
    rows = []
    for a, b in SUMS:
        traces = [f"<think>\nIt is {a} + {b} = {c}.\n</think>\n\\boxed{{{c}}}" for c in (a + b, a + b + 1)]
        rows.append({"problem": f"What is {a} + {b}?", "answer": str(a + b), "generations": traces})
    write_lines(tmp_path / "data/mine/problems.jsonl", rows)
    test = [{"id": i, "problem": row["problem"], "answer": row["answer"]} for i, row in enumerate(rows[:3])]
    write_lines(tmp_path / "data/mine/test.jsonl", test)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"MODEL": model, "TEACHER": model, "PATH": path, "PYTHONPATH": str(tmp_path)}
    for command in COMMANDS + COMPARISON:
        result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    for stage, rows in (("sft", "positives"), ("redi", "pairs")):
        assert Dataset.from_parquet(f"{tmp_path}/data/mine/{rows}/*.parquet").num_rows == 10
        manifest = json.loads((tmp_path / "runs" / stage / "mine/manifest.json").read_text())
        assert manifest["counts"]["rows"] == 10 and manifest["counts"]["steps"] > 0
        assert yaml.safe_load((tmp_path / f"recipes/{stage}/mine/config.yaml").read_text())["use_cpu"]
    for report in re.findall(r"`(runs/\S+/report\.html)`", PAGE):
        assert (tmp_path / report).is_file()
    table = json.loads((tmp_path / "runs/report/mine/table.json").read_text())
    assert [row["benchmarks"]["test"]["num_problems"] for row in table["rows"]] == [3, 3]
