"""Training runs: resuming, finished runs, adapters, tokenising ahead, trackers, and bad input."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import pytest
import torch
import train_redi
from helpers.commands import arguments, weights_of
from helpers.paths import REPOSITORY
from transformers import TrainerCallback

from redi import REDITrainer
from redi.job import read_job
from redi.runs.errors import UsageError
from redi.training import run_training, train


class StopAt(TrainerCallback):
    """Stands for a job that is killed after the given step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_killed_run_resumes_to_the_same_weights(model_path, rows_file, tmp_path):
    def run(folder: str, stop_at: int | None = None):
        options = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2"]
        options += ["--per_device_train_batch_size", "2"]
        job = read_job("redi", arguments(model_path, rows_file, tmp_path / folder, *options))
        callbacks = [] if stop_at is None else [StopAt(stop_at)]
        stage = replace(job.stage, trainer=partial(REDITrainer, callbacks=callbacks))
        run_training(replace(job, stage=stage))

    run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop_at=5)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    run("killed")
    expected, actual = weights_of(tmp_path / "straight"), weights_of(tmp_path / "killed")
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


def test_a_finished_run_is_recognised_and_other_options_are_refused(model_path, rows_file, tmp_path, capsys):
    out = tmp_path / "out"
    argv = arguments(model_path, rows_file, out)
    train("redi", [*argv, "--alpha", "0.5"])
    before = (out / "model.safetensors").stat().st_mtime_ns
    train("redi", [*argv, "--alpha", "0.5", "--accelerate_config", "zero3", "--tokenize_only", "true"])
    assert f"{out} is finished already: nothing to do" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="holds a finished run with alpha=0.5, not 0.8"):
        train("redi", [*argv, "--alpha", "0.8"])


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--dataset_name", "/nowhere/at/all"], "dataset_name=/nowhere/at/all does not exist"),
        (["--dataset_name", "data/none"], "dataset_name=data/none does not exist, and is not a Hub id"),
        (["--model_name_or_path", "nowhere"], "model_name_or_path=nowhere does not exist"),
        (["--max_length", "10"], "no row is left to train on"),
        (["--config", "/no/config.yaml"], "--config /no/config.yaml does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(model_path, rows_file, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as caught:
        train_redi.main(arguments(model_path, rows_file, tmp_path / "out", *extra))
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_options_are_checked_without_model_and_data(tmp_path, capsys):
    train("redi", [*arguments("no/model", "no/data", tmp_path / "out"), "--check_only", "true"])
    assert capsys.readouterr().out == "the options can be used\n"


def test_lora_writes_the_merged_model_and_the_adapters(model_path, rows_file, tmp_path):
    pytest.importorskip("peft")
    options = ["--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
    train("redi", arguments(model_path, rows_file, tmp_path / "o", *options))
    before, after = weights_of(model_path), weights_of(tmp_path / "o")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("q_proj.weight", "v_proj.weight"))}
    adapter = json.loads((tmp_path / "o" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (4, 8)
    assert (tmp_path / "o" / "manifest.json").is_file() and (tmp_path / "o" / "tokenizer.json").is_file()


def cached_maps() -> dict[Path, int]:
    """The results of `map` in the datasets cache, with the times they were written."""
    files = Path(datasets.config.HF_DATASETS_CACHE).rglob("cache-*.arrow")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_tokenising_ahead_leaves_nothing_to_tokenise(model_path, rows_file, tmp_path, stage, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    argv = arguments(model_path, rows_file, tmp_path / "o", "--max_length", "200")
    train(stage, [*argv, "--tokenize_only", "true"])
    assert not (tmp_path / "o").exists()
    made = cached_maps()
    assert made
    train(stage, argv)
    assert cached_maps() == made


@pytest.mark.parametrize("options, warns", [([], True), (["--lora_r", "2"], False)], ids=["full", "lora"])
def test_half_precision_weights_alone_are_warned_of(model_path, rows_file, tmp_path, capsys, options, warns):
    train("redi", arguments(model_path, rows_file, tmp_path / "out", "--dtype", "bfloat16", *options))
    printed = capsys.readouterr().out
    assert ("warning: dtype=bfloat16 without DeepSpeed or FSDP keeps no float32 weights" in printed) == warns


# --- trackers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wandb_logs_offline(model_path, rows_file, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(REPOSITORY / "configs/accelerate/cpu.yaml")]
    command += [str(REPOSITORY / "scripts/train_redi.py"), *arguments(model_path, rows_file, Path("out"))]
    environment = {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
    }
    result = subprocess.run(
        [*command, "--report_to", "wandb", "--run_name", "redi-test"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_tensorboard_writes_on_this_machine(model_path, rows_file, tmp_path):
    train("redi", arguments(model_path, rows_file, tmp_path / "out", "--report_to", "tensorboard"))
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))
