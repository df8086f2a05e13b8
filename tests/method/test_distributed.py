"""Several CPU processes take the same steps as one: DDP, ZeRO and FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_redi
from datasets import Dataset
from helpers.commands import CPU, launcher, log_of
from helpers.oracle import stock_sft
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM

REDI = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "grad_norm", "update_norm"]
METRICS = {"redi": REDI, "bounded": REDI, "sft": ["loss", "mean_token_accuracy", "num_tokens", "grad_norm"]}


@pytest.fixture(scope="module", params=["redi", pytest.param("bounded", marks=pytest.mark.slow), "sft"])
def method(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def stage(method) -> str:
    return "sft" if method == "sft" else "redi"


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory) -> str:
    """18 rows that are both pairs and positives."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    Dataset.from_list([{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(18)]).to_parquet(path)
    return str(path)


@pytest.fixture(scope="module")
def options(method, stage, model_path, rows_file) -> list[str]:
    """Three steps on 18 rows, to be split into global batches of 8. The last batch has 2 rows."""
    argv = ["--model_name_or_path", model_path, "--dataset_name", rows_file, *CPU]
    argv += ["--log_update_norm", "true"] * (stage == "redi")
    argv += ["--chosen_weight", "0.5", "--bounded_negatives", "true"] * (method == "bounded")
    argv += ["--max_steps", "3", "--logging_steps", "1", "--save_strategy", "no", "--learning_rate", "1e-3"]
    return [*argv, "--lr_scheduler_type", "constant", "--per_device_train_batch_size", "2"]


@pytest.fixture(scope="module")
def one_process(stage, options, model_path, tokenizer, rows_file, tmp_path_factory) -> Path:
    """Of SFT, TRL's own trainer."""
    folder = tmp_path_factory.mktemp("one")
    if stage == "redi":
        train_redi.main([*options, "--gradient_accumulation_steps", "4", "--output_dir", str(folder)])
        return folder
    steps = dict(max_steps=3, learning_rate=1e-3, lr_scheduler_type="constant", per_device_train_batch_size=8)
    return stock_sft(model_path, tokenizer, rows_file, folder, **steps)


@pytest.mark.parametrize(
    "kind", ["ddp", *(pytest.param(x, marks=pytest.mark.slow) for x in ("zero2", "zero3", "fsdp2"))]
)
def test_two_processes_equal_one(tmp_path, method, stage, options, one_process, kind):
    """The traces of a batch may land on either rank. Losses, metrics and weights are the same."""
    out = tmp_path / "two"
    script = str(REPOSITORY / f"scripts/train_{stage}.py")
    command = [sys.executable, "-m", *launcher(kind, tmp_path), script, *options]
    result = subprocess.run(
        [*command, "--gradient_accumulation_steps", "2", "--output_dir", str(out)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((out / "manifest.json").read_text())["counts"]["world_size"] == 2
    expected, actual = log_of(one_process), log_of(out)
    assert len(expected) == 3
    for key in METRICS[method]:
        values = [entry[key] for entry in expected]
        assert [entry[key] for entry in actual] == pytest.approx(values, rel=2e-5, abs=1e-6), key
    expected, actual = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one_process, out))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=2e-6, rtol=1e-5)
