"""The training scripts as users run them: options, resume, finished runs, every shipped configuration, DeepSpeed."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import train_dpo
import train_redi
import train_sft
from datasets import Dataset
from helpers.commands import CPU, STEPS, log_of, weights_of
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig

from redi import REDIConfig, REDITrainer
from redi.data.training_data import load_rows
from redi.job import RunArguments, check_job, read_job
from redi.runs.errors import UsageError
from redi.runs.model_folder import load_tokenizer
from redi.runs.recipe_options import parse_options
from redi.sft import tokenize_positives
from redi.text.encoding import encode
from redi.training import run_training


@pytest.fixture()
def pairs_file(tmp_path) -> str:
    path = tmp_path / "pairs.parquet"
    Dataset.from_list(make_pairs(16)).to_parquet(path)
    return str(path)


@pytest.fixture()
def positives_file(tmp_path) -> str:
    path = tmp_path / "positives.parquet"
    rows = [{"messages": row["prompt"] + row["chosen"]} for row in make_pairs(8)]
    Dataset.from_list(rows).to_parquet(path)
    return str(path)


# --- options -----------------------------------------------------------------------------------------------------


def refused(argv: list[str], *types: type) -> str:
    with pytest.raises(UsageError) as caught:
        parse_options(argv, list(types) or [RunArguments, REDIConfig])
    return str(caught.value)


def test_misspelt_keys_name_the_nearest_valid_key(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("learning_rte: 1e-3\n")
    assert refused(["--config", str(config)]) == "unknown key 'learning_rte'; did you mean 'learning_rate'?"
    assert refused(["--alhpa", "0.5"]) == "unknown option '--alhpa'; did you mean '--alpha'?"
    assert refused(["--learning_rat", "1"]).startswith("unknown option")  # no prefix matching


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_steps: many\n", "argument --max_steps.*: invalid int value: 'many'"),
        ("per_device_train_batch_size: 1.5\n", "invalid int value: '1.5'"),
        ("beta: 0.1\n", "beta=0.1 is a DPO option that REDI does not read"),
        ("- a list\n", "must hold `key: value` lines"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_wrong_values_are_refused(tmp_path, text, message):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    argv = ["--config", str(config), "--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", *CPU]
    assert re.search(message, refused(argv))


def test_yaml_values_and_command_line_overrides(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nlearning_rate: 1e-6\nmax_length: null\n"
        "model_init_kwargs: {dtype: bfloat16}\nalpha: 0.2\n"
    )
    (run, args), given = parse_options(["--config", str(config), "--alpha", "0.5", *CPU], [RunArguments, REDIConfig])
    assert (run.model_name_or_path, args.learning_rate, args.max_length, args.alpha) == ("m", 1e-6, None, 0.5)
    assert args.model_init_kwargs == {"dtype": "bfloat16"}
    assert given["alpha"] == 0.5 and "weight_decay" not in given


def test_a_run_is_named_after_its_recipe_and_what_overrides_it():
    recipe = ["--config", str(REPOSITORY / "recipes/redi/quickstart/config.yaml")]

    def name(*argv: str) -> str:
        return parse_options([*recipe, *argv], [RunArguments, REDIConfig])[0][1].run_name

    assert name() == "redi/quickstart"
    assert name("--alpha", "0.5", "--output_dir", "x", "--seed=7") == "redi/quickstart alpha=0.5 seed=7"
    assert name("--alpha", "0.5", "--run_name", "mine") == "mine"


def test_a_misspelt_key_ends_the_recipe_with_one_line_and_exit_code_2(tmp_path):
    result = subprocess.run(
        ["bash", REPOSITORY / "recipes/redi/quickstart/train.sh", "--alhpa", "0.5"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == "error: unknown option '--alhpa'; did you mean '--alpha'?"
    assert "Traceback" not in result.stderr


# --- runs --------------------------------------------------------------------------------------------------------


def test_sft_trains_the_completion_with_its_end_of_turn_and_eos(tokenizer, positives_file, tmp_path):
    args = SFTConfig(output_dir=str(tmp_path / "o"), use_cpu=True, bf16=False)
    row = tokenize_positives(Dataset.from_parquet(positives_file), tokenizer, args, "rows")[1]
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(trained) == (
        "<think>\nstep 0 is 1. step 1 is 2.\n</think>\n\\boxed{2}<|im_end|>\n<|endoftext|>"
    )
    masked = row["input_ids"][: -len(trained)]
    assert tokenizer.decode(masked).endswith("<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n")


def test_sft_loss_is_the_mean_over_completion_tokens(model_path, positives_file, tmp_path, tokenizer):
    out = tmp_path / "sft"
    argv = ["--model_name_or_path", model_path, "--dataset_name", positives_file, "--output_dir", str(out)]
    train_sft.main([*argv, *CPU, *STEPS, "--per_device_train_batch_size", "8"])

    args = SFTConfig(output_dir=str(tmp_path / "o"), use_cpu=True, bf16=False)
    rows = tokenize_positives(Dataset.from_parquet(positives_file), tokenizer, args, "rows")
    model = AutoModelForCausalLM.from_pretrained(model_path)
    total, count = 0.0, 0
    for row in rows:
        logps = torch.log_softmax(model(torch.tensor([row["input_ids"]])).logits[0], -1)
        for t, label in enumerate(row["labels"][1:]):
            if label != -100:
                total, count = total - logps[t, label].item(), count + 1
    assert log_of(out)[0]["loss"] == pytest.approx(total / count, abs=1e-4)
    assert json.loads((out / "manifest.json").read_text())["counts"]["steps"] == 2


class StopAt(TrainerCallback):
    """Stands for a job that is killed after the given step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_killed_run_resumes_to_the_same_weights(model_path, pairs_file, tmp_path):
    def run(folder: str, stop_at: int | None = None):
        argv = [
            "--model_name_or_path",
            model_path,
            "--dataset_name",
            pairs_file,
            "--output_dir",
            str(tmp_path / folder),
        ]
        argv += [*CPU, "--max_steps", "6", "--save_steps", "2", "--per_device_train_batch_size", "2"]
        job = read_job("redi", [*argv, "--learning_rate", "1e-3"])
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


def test_a_finished_run_is_recognised_and_other_options_are_refused(model_path, pairs_file, tmp_path, capsys):
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", str(tmp_path / "out")]
    train_redi.main([*argv, *CPU, *STEPS, "--alpha", "0.5"])
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    train_redi.main([*argv, *CPU, *STEPS, "--alpha", "0.5"])
    assert "is finished already" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SystemExit) as caught:
        train_redi.main([*argv, *CPU, *STEPS, "--alpha", "0.8"])
    assert caught.value.code == 2
    assert "holds a finished run with alpha=0.5, not 0.8" in capsys.readouterr().err


def split(global_batch_size: int, *options: str, world_size: int = 8) -> tuple[int, int, str]:
    """Pairs per device and accumulation steps of REDI on 8 processes, and the line that says so."""
    argv = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", *CPU, *options]
    job = check_job(read_job("redi", [*argv, "--global_batch_size", str(global_batch_size)]), world_size)
    return job.args.per_device_train_batch_size, job.args.gradient_accumulation_steps, job.batch


def test_a_global_batch_is_split_over_the_processes():
    assert split(32, "--per_device_train_batch_size", "1")[:2] == (1, 4)  # the paper's 8 GPUs
    per_device, accumulation, line = split(32, "--per_device_train_batch_size", "2", world_size=1)
    assert (per_device, accumulation) == (2, 16)
    assert line == "global batch of 32 = 1 x 2 x 16 (processes x per device x accumulation)"
    assert split(32, "--max_tokens_per_micro_batch", "20000")[:2] == (4, 1)


@pytest.mark.parametrize(
    "total, options, message",
    [
        (32, ["--per_device_train_batch_size", "3"], "=32 is not a multiple of 24: 8 process.* times .*batch_size=3;"),
        (4, ["--per_device_train_batch_size", "1"], "=4 is not a multiple of 8: 8 process"),
        (36, ["--max_tokens_per_micro_batch", "20000"], "=36 is not a multiple of 32: 8 process"),
        (
            32,
            ["--gradient_accumulation_steps", "4"],
            "gradient_accumulation_steps=4 follows from global_batch_size=32",
        ),
    ],
)
def test_a_global_batch_that_cannot_be_split_is_refused_with_the_numbers(total, options, message):
    with pytest.raises(UsageError, match=message):
        split(total, *options)


@pytest.mark.parametrize("options", [[], ["--precompute_ref_log_probs", "true"]], ids=["reference", "precomputed"])
def test_dpo_baseline_starts_at_log_2_with_the_eos_scored(model_path, pairs_file, tmp_path, tokenizer, options):
    """At the first step policy and reference are equal, so the DPO loss is -log sigmoid(0) = log 2."""
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", str(tmp_path / "out")]
    train_dpo.main([*argv, *CPU, *STEPS, "--per_device_train_batch_size", "16", *options])
    log = log_of(tmp_path / "out")[0]
    assert log["loss"] == pytest.approx(0.693147, abs=1e-5)

    model, total = AutoModelForCausalLM.from_pretrained(model_path), 0.0
    for row in make_pairs(16):
        prompt_ids, completion_ids = encode(tokenizer, row["prompt"], row["chosen"])
        assert completion_ids[-1] == tokenizer.eos_token_id
        logps = torch.log_softmax(model(torch.tensor([prompt_ids + completion_ids])).logits[0], -1)
        places = range(len(prompt_ids) - 1, len(prompt_ids) + len(completion_ids) - 1)
        total += sum(logps[t, token].item() for t, token in zip(places, completion_ids, strict=True))
    assert log["logps/chosen"] == pytest.approx(total / 16, rel=1e-5)


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--dataset_name", "/nowhere/at/all"], "dataset_name=/nowhere/at/all does not exist"),
        (["--dataset_name", "data/none"], "dataset_name=data/none does not exist, and is not a Hub id"),
        (["--model_name_or_path", "nowhere"], "model_name_or_path=nowhere does not exist"),
        (["--save_only_model", "true"], "save_only_model=true leaves nothing to resume from"),
        (["--config", "/no/config.yaml"], "--config /no/config.yaml does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(model_path, pairs_file, tmp_path, capsys, extra, message):
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        train_redi.main([*argv, *CPU, *STEPS, *extra])
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_rows_are_those_of_the_folder_whatever_was_cached_of_one_of_its_name(tmp_path):
    """datasets knows a local folder whose card has `configs` by its name and its card alone."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*.parquet\n---\n"
    for number in (3, 5, 4):
        folder = tmp_path / str(number % 2) / "pairs"  # 5 takes the place of 3: a folder built again
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(make_pairs(number)).to_parquet(folder / "train-00000-of-00001.parquet")
        (folder / "README.md").write_text(card)
        assert len(load_rows(str(folder), "train")) == number


def test_a_tokenizer_without_a_chat_template_is_refused(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="has no chat template"):
        load_tokenizer(str(tmp_path))


# --- several processes and trackers ------------------------------------------------------------------------------


def launch(accelerate_config: Path, arguments: list[str], cwd: Path, **environment: str) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config)]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(
        [*command, str(REPOSITORY / "scripts/train_redi.py"), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("options, warns", [([], True), (["--lora_r", "2"], False)], ids=["full", "lora"])
def test_half_precision_weights_alone_are_warned_of(model_path, pairs_file, tmp_path, capsys, options, warns):
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", str(tmp_path / "out")]
    train_redi.main([*argv, *CPU, *STEPS, "--dtype", "bfloat16", *options])
    said = capsys.readouterr().out
    assert ("warning: dtype=bfloat16 without DeepSpeed or FSDP keeps no float32 weights" in said) == warns


@pytest.mark.slow
def test_wandb_logs_offline(model_path, pairs_file, tmp_path):
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", "out", *CPU, *STEPS]
    launch(
        REPOSITORY / "configs/accelerate/cpu.yaml",
        [*argv, "--report_to", "wandb", "--run_name", "redi-test"],
        tmp_path,
        WANDB_MODE="offline",
        WANDB_DIR=str(tmp_path),
    )
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_tensorboard_writes_on_this_machine(model_path, pairs_file, tmp_path):
    argv = ["--model_name_or_path", model_path, "--dataset_name", pairs_file, "--output_dir", str(tmp_path / "out")]
    train_redi.main([*argv, *CPU, *STEPS, "--report_to", "tensorboard"])
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))
