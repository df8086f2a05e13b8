"""recipes/pipeline.sh: Table 1 on a tiny model, killed and stopped half-way, and resumed."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.graded import write_graded
from helpers.paths import REPOSITORY
from helpers.pipeline import PIPELINE, REDI, SFT, TRAIN, cut_down


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
    for target in ("table2", "controls", "lora"):  # a run comes after the one that it starts from
        runs = [line.split()[1] for line in pipeline(target, "list").stdout.splitlines() if line.startswith("train ")]
        for number, run in enumerate(runs):
            start = yaml.safe_load((REPOSITORY / "recipes" / run / "config.yaml").read_text())["model_name_or_path"]
            assert start.startswith("models/") or start.removeprefix("runs/") in runs[:number]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table9"], "TARGET must be table1, table2, table3, table4, controls or lora, not 'table9'"),
        (["table1", "trian"], "STAGE must be data, tokenize, train, evaluate, table or list, not 'trian'"),
        (["table1", "train", "sft/other"], f"train needs a run of table1: {SFT} {REDI}"),
        (["table1", "evaluate"], f"evaluate needs a run of table1: {SFT} {REDI}"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, message):
    result = pipeline(*arguments)
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    "variable, arguments",
    [
        ("PREPARE_OPTIONS", ["data"]),
        ("TRAIN_OPTIONS", ["tokenize", SFT]),
        ("EVALUATE_OPTIONS", ["evaluate", SFT]),
    ],
)
def test_options_after_a_newline_are_read(tmp_path, variable, arguments):
    options = {"ROOT": str(tmp_path), "CORPUS": str(tmp_path), variable: "\n--bogus 1\n"}
    result = pipeline("table1", *arguments, **options)
    assert result.returncode == 2 and "error: unknown option '--bogus'" in result.stderr


@pytest.fixture()
def environment(tmp_path) -> dict[str, str]:
    return cut_down(tmp_path / "task") | {
        "ROOT": str(tmp_path / "root"),
        "TRAIN_OPTIONS": f"{TRAIN} --max_steps 40 --save_steps 3",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }


def interrupted(environment: dict[str, str], log: Path, reached: Path) -> subprocess.Popen:
    """The pipeline for Table 1, run until the folder exists. Its output goes to the log."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["bash", PIPELINE, "table1"], env=os.environ | environment, stdout=stream, stderr=stream
        )
    deadline = time.time() + 500
    while not reached.is_dir():
        assert process.poll() is None and time.time() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("target", ["--help", "-h"])
def test_help(target):
    result = pipeline(target)
    assert result.returncode == 0 and result.stdout.startswith("From raw traces to a table of the paper.")


def test_the_table_of_runs_of_equal_names(tmp_path):
    """Both LoRA recipes have the same name; their rows are named by stage."""
    for stage in ("sft", "redi"):
        run = tmp_path / "runs" / stage / "qwen2.5-math-1.5b_lora"
        run.mkdir(parents=True)
        (run / "manifest.json").write_text("{}")
        write_graded(run.parent / "evaluation" / run.name)
    result = pipeline("lora", "table", ROOT=str(tmp_path))
    assert result.returncode == 0, result.stderr
    table = json.loads((tmp_path / "runs" / "report" / "lora" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["sft/qwen2.5-math-1.5b_lora", "redi/qwen2.5-math-1.5b_lora"]
    assert table["baselines"] == ["sft/qwen2.5-math-1.5b_lora"]


@pytest.mark.parametrize("arguments", [[], ["data"]], ids=["all", "one_stage"])
def test_sigterm_ends_a_stage_that_does_not_train(tmp_path, arguments):
    """The stage waits for a Hub that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hub, (tmp_path / "log").open("w") as log:
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        environment = {
            "ROOT": str(tmp_path),
            "BASE_MODEL": "some/model",
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": address,
        }
        command = ["bash", PIPELINE, "table1", *arguments]
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        hub.settimeout(60)
        with hub.accept()[0]:
            stage = psutil.Process(process.pid).children(recursive=True)
            assert any("scripts/prepare_base_model.py" in member.cmdline() for member in stage)
            process.terminate()
            assert process.wait(timeout=30) == 143, (tmp_path / "log").read_text()
            assert not psutil.wait_procs(stage, timeout=10)[1]


@pytest.mark.slow
def test_table_1_end_to_end_killed_and_stopped_half_way_and_resumed(environment, tmp_path):
    root = tmp_path / "root"
    model = root / "runs" / REDI

    process = interrupted(environment, tmp_path / "first", root / "runs" / SFT / "checkpoint-6")
    children = psutil.Process(process.pid).children(recursive=True)
    for member in (process, *children):  # like a machine that fails: no process gets a signal that it could handle
        member.kill()
    psutil.wait_procs(children, timeout=60)
    assert process.wait() == -signal.SIGKILL and not (root / "runs" / SFT / "manifest.json").exists()

    process = interrupted(environment, tmp_path / "second", model / "checkpoint-3")
    process.terminate()
    second = tmp_path / "second"
    assert process.wait(timeout=120) == 143, second.read_text()[-3000:]
    assert f"resuming from {root}/runs/{SFT}/checkpoint-" in second.read_text()
    assert f"{root}/data/pairs: already done" in second.read_text()
    assert "stopped by SIGTERM" in second.read_text() and not (model / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (root / "runs" / SFT).glob("*.safetensors")}

    result = pipeline("table1", **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{root}/runs/{SFT} is finished already" in result.stdout
    assert f"resuming from {model}/checkpoint-" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before and before
    counts = json.loads((model / "manifest.json").read_text())["counts"]
    assert counts["steps"] == 40
    table = json.loads((root / "runs" / "report" / "table1" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [
        f"{Path(run).name}_max-tokens-6_prompt-bare" for run in (SFT, REDI)
    ]
    assert (root / "runs" / "report" / "table1" / "table1.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["table2", "controls", "lora"])
def test_every_target_ends_with_its_table(environment, tmp_path, target):
    """Tables 1 and 2 have the runs of Tables 4 and 3; Table 1 is tested above."""
    options = f"{TRAIN} --max_steps 2 --save_strategy no --max_length 512 --attn_implementation sdpa"
    result = pipeline(target, **environment | {"TRAIN_OPTIONS": options})
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    report = tmp_path / "root" / "runs" / "report"
    table = json.loads((report / target / "table.json").read_text())
    names = [row["name"] for row in table["rows"]]
    runs = [line for line in pipeline(target, "list").stdout.splitlines() if line.startswith("train ")]
    assert len(set(names)) == len(names) == len(runs)
    if target == "table2":
        assert (report / "table2" / "table2.md").is_file()
        result = pipeline("table3", "table", **environment)
        assert result.returncode == 0 and (report / "table3" / "table3.md").is_file(), result.stderr
