"""recipes/pipeline.sh: the whole of Table 1 on a tiny model, stopped in the middle and taken up again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

PIPELINE = str(REPOSITORY / "recipes" / "pipeline.sh")
SFT, REDI = "sft/qwen2.5-math-1.5b_5ep", "redi/qwen2.5-math-1.5b_alpha0.8"
TRAIN = "--use_cpu true --bf16 false --dtype float32 --gradient_checkpointing false --global_batch_size 8"


def pipeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", PIPELINE, *arguments], env=os.environ | environment, capture_output=True, text=True)


def test_the_stages_of_a_target_come_after_those_they_need():
    assert pipeline("table1", "list").stdout.splitlines() == [
        "data",
        f"train {SFT}",
        f"evaluate {SFT}",
        f"train {REDI}",
        f"evaluate {REDI}",
        "table",
    ]
    assert pipeline("table3", "list").stdout == pipeline("table2", "list").stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table9"], "TARGET is one of table1, table2, table3, table4, controls, lora; not 'table9'"),
        (["table1", "trian"], "STAGE is one of data, train, evaluate, table, list; not 'trian'"),
        (["table1", "train", "sft/other"], f"train is of a run of table1: {SFT} {REDI}"),
        (["table1", "evaluate"], f"evaluate is of a run of table1: {SFT} {REDI}"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, message):
    result = pipeline(*arguments)
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")


@pytest.fixture()
def environment(tmp_path) -> dict[str, str]:
    """The quickstart's corpus, benchmark and model, cut down."""
    make = [sys.executable, str(REPOSITORY / "data_preprocess/make_synthetic.py"), "--output", str(tmp_path / "task")]
    subprocess.run([*make, "--num-problems", "60", "--num-test", "4"], check=True, capture_output=True)
    return {
        "CORPUS": str(tmp_path / "task" / "raw"),
        "BASE_MODEL": str(tmp_path / "task" / "base"),
        "BENCHMARKS": str(tmp_path / "task" / "digits.jsonl"),
        "ROOT": str(tmp_path / "root"),
        "TRAIN_OPTIONS": f"{TRAIN} --max_steps 40 --save_steps 3",
        "EVALUATE_OPTIONS": "--backend transformers --n 1 --max-tokens 6 --prompt bare",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }


@pytest.mark.slow
def test_table_1_end_to_end_stopped_in_the_middle_and_resumed(environment, tmp_path):
    root, log = tmp_path / "root", tmp_path / "log.txt"
    model = root / "runs" / REDI
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["bash", PIPELINE, "table1"], env=os.environ | environment, stdout=stream, stderr=stream
        )
    deadline = time.time() + 500
    while not (model / "checkpoint-3").is_dir():
        assert process.poll() is None and time.time() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=120) == 143, log.read_text()[-3000:]
    assert "stopped by SIGTERM" in log.read_text() and not (model / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (root / "runs" / SFT).glob("*.safetensors")}

    result = pipeline("table1", **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{root}/runs/{SFT} is finished already" in result.stdout
    assert f"{root}/data/pairs: already done" in result.stdout and "resuming from" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before and before
    counts = json.loads((model / "manifest.json").read_text())["counts"]
    assert counts["steps"] == 40
    table = json.loads((root / "runs" / "report" / "table1" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [Path(SFT).name, Path(REDI).name]
    assert (root / "runs" / "report" / "table1" / "table1.md").is_file()
