"""Options on a machine without a GPU, from Python and from the command line."""

import pytest
import torch
from datasets import Dataset
from helpers.commands import arguments
from helpers.tiny import make_pairs

from redi import REDIConfig, REDITrainer
from redi.config import PackedSFTConfig, PreparedDPOConfig
from redi.job import NOTHING_COMPUTED, read_job
from redi.runs.errors import UsageError
from redi.training import train

CONFIGS = [REDIConfig, PackedSFTConfig, PreparedDPOConfig]
TRUE = ["--use_cpu", "false", "--bf16", "true", "--tf32", "true", "--dtype", "bfloat16"]
PLACES = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]


@pytest.fixture()
def gpu(monkeypatch):
    """Makes the options believe that there is a GPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_cpu_is_chosen_where_nothing_contradicts_it(config):
    args = config(output_dir="o")
    assert (args.use_cpu, args.bf16) == (True, False)
    assert args.cpu_note == "no GPU is found: training on the CPU, in float32 (use_cpu: true, bf16: false)"
    alone = config(output_dir="o", use_cpu=True)
    assert (alone.bf16, alone.cpu_note) == (False, "use_cpu: true trains in float32 (bf16: false)")
    both = config(output_dir="o", use_cpu=True, bf16=True)
    assert (both.bf16, both.cpu_note) == (True, "")
    neither = config(output_dir="o", use_cpu=True, bf16=False)
    assert neither.cpu_note == ""


@pytest.mark.parametrize(
    "options, named",
    [
        ({"bf16": True}, "bf16=True"),
        ({"fp16": True}, "fp16=True"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "dtype=bfloat16"),
        ({"model_init_kwargs": {"dtype": torch.float16}}, "dtype=float16"),
    ],
)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_needs_a_gpu_is_refused_with_the_keys_to_set(config, options, named):
    with pytest.raises(ValueError, match=f"{named} needs a GPU.* set use_cpu: true, bf16: false and dtype: float32"):
        config(output_dir="o", **options)


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_changes_where_there_is_a_gpu(gpu, config, monkeypatch):
    args = config(output_dir="o")
    assert (args.use_cpu, args.bf16, args.cpu_note) == (False, True, "")
    args = config(output_dir="o", use_cpu=True)
    assert (args.bf16, args.cpu_note) == (False, "use_cpu: true trains in float32 (bf16: false)")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # launched with configs/accelerate/cpu.yaml
    args = config(output_dir="o")
    assert (args.use_cpu, args.bf16) == (True, False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_need_a_gpu_or_use_cpu(dtype):
    with pytest.raises(UsageError, match=f"dtype={dtype} needs a GPU, and none is used here"):
        read_job("redi", [*PLACES, "--dtype", dtype])
    assert read_job("redi", [*PLACES, "--dtype", dtype, "--use_cpu", "true"]).run.dtype == dtype
    assert "use_cpu" not in read_job("redi", PLACES).given  # the choice does not identify the run


def test_a_trainer_made_in_python_says_it(model_path, tmp_path, capsys):
    args = REDIConfig(output_dir=str(tmp_path), max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True)
    trainer = REDITrainer(model=model_path, args=args, train_dataset=Dataset.from_list(make_pairs()))
    trainer.train()
    assert args.cpu_note in capsys.readouterr().out.splitlines()
    assert next(trainer.model.parameters()).dtype == torch.float32


def test_the_cpu_options_of_tests_say_nothing(model_path, rows_file, tmp_path):
    assert read_job("redi", arguments(model_path, rows_file, tmp_path)).args.cpu_note == ""


def test_a_gpu_that_torch_cannot_use_is_named_before_the_cpu_is_offered(monkeypatch, tmp_path):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 470.82.01\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for options in ([], ["--dtype", "bfloat16"], ["--bf16", "true"]):
        with pytest.raises(UsageError, match="NVIDIA"):
            read_job("redi", [*PLACES, *options])


def test_a_job_for_a_gpu_is_read_where_nothing_is_computed():
    job = read_job("redi", [*PLACES, *TRUE], assumed=NOTHING_COMPUTED)
    assert job.args.use_cpu and job.args.cpu_note == ""
    assert {name: job.given[name] for name in ("use_cpu", "bf16", "tf32")} == {
        "use_cpu": False,
        "bf16": True,
        "tf32": True,
    }


@pytest.mark.parametrize("spelling", ["--tokenize_only", "--tokenize-only", "--tokenize_only=true"])
def test_rows_are_tokenised_for_a_gpu_on_a_machine_without_one(spelling, model_path, rows_file, tmp_path):
    places = ["--model_name_or_path", model_path, "--dataset_name", rows_file, "--output_dir", str(tmp_path / "out")]
    option = [spelling] if "=" in spelling else [spelling, "true"]
    rows, _ = train("redi", [*places, *TRUE, *option])
    assert len(rows) == 16
