"""Held-out rows: loss and metrics are plain PyTorch's over all of them, whatever the batches and processes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import plot_training
import pytest
import torch
from datasets import Dataset
from helpers.commands import arguments, launcher, log_of
from helpers.oracle import config, oracle_logps, trained
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM

from redi import REDITrainer
from redi.config import PackedSFTConfig
from redi.evaluation.reporting.figures import CHOSEN, MARGIN
from redi.evaluation.reporting.training_dynamics import logged_panels
from redi.losses import redi_loss, simpo_loss
from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.sft import PackedSFTTrainer
from redi.training import train

NUM_HELD_OUT = 7  # the last batch is smaller


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    return Dataset.from_list([{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(12)[5:]])


@pytest.fixture(scope="module")
def oracle(held_out, model_path, tokenizer) -> dict[str, torch.Tensor]:
    """Sums of log-probabilities and lengths of both sides of the held-out pairs, `(NUM_HELD_OUT,)`."""
    model, found = AutoModelForCausalLM.from_pretrained(model_path), {}
    for side in ("chosen", "rejected"):
        texts = [(row["prompt"][0]["content"], row[side][0]["content"]) for row in held_out]
        with torch.no_grad():
            logps, lengths = zip(*(oracle_logps(model, tokenizer, *text) for text in texts), strict=True)
        found[side], found[f"{side} length"] = torch.stack(logps), torch.tensor(lengths)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.0},
        {"alpha": 0.3, "per_device_eval_batch_size": 3},
        {"max_tokens_per_micro_batch": 300, "per_device_eval_batch_size": 100},
        {"alpha": 1.0, "chosen_weight": 0.1},
        {"padding_free": False},
        {"objective": "simpo", "simpo_gamma": 0.5},
    ],
)
def test_held_out_pairs_are_measured_as_plain_pytorch_does(
    tmp_path, model_path, tokenizer, pairs, held_out, oracle, options
):
    args = config(tmp_path, **{"per_device_eval_batch_size": 2, **options}, learning_rate=0.0, eval_strategy="steps")
    trainer = trained(model_path, tokenizer, args, pairs, eval_dataset=held_out)
    (logged,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    values = [oracle[name] for name in ("chosen", "rejected", "chosen length", "rejected length")]
    chosen, rejected = values[0] / values[2], values[1] / values[3]
    if args.objective == "simpo":
        losses = simpo_loss(*values, beta=2.0, gamma=0.5)
    else:
        losses = redi_loss(*values, alpha=args.alpha, chosen_weight=args.chosen_weight)
    expected = {
        "eval_loss": losses,
        "eval_logps/chosen": chosen,
        "eval_logps/rejected": rejected,
        "eval_rewards/margins": chosen - rejected,
        "eval_rewards/accuracies": (chosen > rejected).float(),
        "eval_completions/mean_length/chosen": values[2].float(),
        "eval_completions/mean_length/rejected": values[3].float(),
    }
    assert {name: logged[name] for name in expected} == {
        name: pytest.approx(value.mean().item(), abs=2e-5) for name, value in expected.items()
    }
    assert trainer.evaluate(held_out)["eval_loss"] == logged["eval_loss"]


@pytest.mark.parametrize("options", [{}, {"padding_free": False}])
def test_held_out_loss_of_bounded_negatives_is_that_of_training(tmp_path, model_path, tokenizer, pairs, options):
    args = config(tmp_path, bounded_negatives=True, per_device_train_batch_size=8, learning_rate=0.0, **options)
    trainer = trained(model_path, tokenizer, args, pairs, eval_dataset=pairs)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.log_history[0]["loss"], abs=2e-5)


def test_evaluation_without_training(tmp_path, model_path, tokenizer, pairs, held_out, oracle):
    """Before the loaded model has been checked, nothing is packed."""
    args = config(tmp_path, per_device_eval_batch_size=4)
    trainer = REDITrainer(model=model_path, args=args, train_dataset=pairs, processing_class=tokenizer)
    assert not trainer.get_eval_dataloader(trainer.train_dataset).dataset.pack
    metrics = trainer.evaluate(held_out)
    assert metrics["eval_logps/chosen"] == pytest.approx(
        (oracle["chosen"] / oracle["chosen length"]).mean().item(), abs=2e-5
    )
    trainer.train()
    assert trainer.get_eval_dataloader(trainer.train_dataset).dataset.pack


def sft(tmp_path, model_path, tokenizer, rows, held_out, **options) -> PackedSFTTrainer:
    fixed = dict(report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no", max_steps=2)
    args = PackedSFTConfig(output_dir=str(tmp_path), learning_rate=1e-2, logging_steps=1, **fixed, **options)
    trainer = PackedSFTTrainer(
        model=model_path, args=args, train_dataset=rows, eval_dataset=held_out, processing_class=tokenizer
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def positives() -> Dataset:
    return Dataset.from_list([{"messages": row["prompt"] + row["chosen"]} for row in make_pairs(5)])


def test_held_out_positives_are_measured_over_all_their_tokens(
    tmp_path, model_path, tokenizer, positives, held_out, oracle
):
    options = dict(eval_strategy="steps", eval_steps=1, eval_on_start=True, per_device_eval_batch_size=2)
    trainer = sft(tmp_path, model_path, tokenizer, positives, held_out.select_columns("messages"), **options)
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in logged] == [0, 1, 2]
    loss = -oracle["chosen"].sum() / oracle["chosen length"].sum()
    assert logged[0]["eval_loss"] == pytest.approx(loss.item(), abs=2e-5)
    model, hits = AutoModelForCausalLM.from_pretrained(model_path), 0
    for row in trainer.eval_dataset:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        hits += (model(ids).logits[0].argmax(dim=-1)[:-1] == labels[1:]).sum().item()
    assert logged[0]["eval_mean_token_accuracy"] == pytest.approx(hits / oracle["chosen length"].sum().item())
    assert logged[2]["eval_loss"] < logged[0]["eval_loss"]


def test_evaluation_changes_nothing_of_the_training(tmp_path, model_path, tokenizer, positives, held_out):
    runs = [
        sft(tmp_path / name, model_path, tokenizer, positives, held_out.select_columns("messages"), **options)
        for name, options in (("a", {}), ("b", {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}))
    ]
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in runs]
    assert losses[0] == losses[1]
    for one, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_traces_of_several_lengths_and_one_side(tmp_path, model_path, tokenizer, held_out, oracle):
    """Unpaired: the chosen traces of the first 4 problems, the rejected ones of the others."""
    rows = [
        {
            "prompt": row["prompt"],
            "completion": row["chosen" if i < 4 else "rejected"][0]["content"],
            "label": i < 4,
        }
        for i, row in enumerate(held_out)
    ]
    args = config(tmp_path, per_device_eval_batch_size=2, learning_rate=0.0, eval_strategy="steps")
    trainer = trained(model_path, tokenizer, args, Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows))
    (logged,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    chosen = (oracle["chosen"] / oracle["chosen length"])[:4]
    rejected = (oracle["rejected"] / oracle["rejected length"])[4:]
    assert logged["eval_logps/chosen"] == pytest.approx(chosen.mean().item(), abs=2e-5)
    assert logged["eval_logps/rejected"] == pytest.approx(rejected.mean().item(), abs=2e-5)
    loss = (-chosen.sum() + 0.8 * rejected.sum()) / NUM_HELD_OUT
    assert logged["eval_loss"] == pytest.approx(loss.item(), abs=2e-5)
    assert "eval_rewards/margins" not in logged  # no problem has both sides


def test_a_held_out_trace_that_does_not_fit_is_refused_at_the_start(tmp_path, model_path, tokenizer, pairs):
    row = make_pairs(1)[0]
    row["chosen"][0]["content"] *= 9
    args = config(tmp_path, max_tokens_per_micro_batch=300, eval_strategy="steps")
    with pytest.raises(ValueError, match="does not fit max_tokens_per_micro_batch=300"):
        trained(model_path, tokenizer, args, pairs, eval_dataset=Dataset.from_list([row]))


# --- as options of a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out_file(held_out, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("held_out") / "held_out.parquet")
    held_out.add_column("uuid", [f"u{i}" for i in range(NUM_HELD_OUT)]).to_parquet(path)
    return path


def options(model_path, rows_file, held_out_file, folder: Path, *extra: str) -> list[str]:
    held_out = ["--eval_dataset_name", held_out_file, "--eval_strategy", "steps", "--eval_on_start", "true"]
    return arguments(model_path, rows_file, folder, *held_out, "--per_device_train_batch_size", "2", *extra)


def held_out_log(folder: Path) -> list[dict]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "eval_loss" in entry]


@pytest.mark.parametrize("stage", ["sft", "redi", "simpo", "dpo"])
def test_every_stage_measures_held_out_rows(stage, model_path, rows_file, held_out_file, oracle, tmp_path, capsys):
    folder = tmp_path / "run"
    extra = {"simpo": ["--objective", "simpo"], "dpo": ["--per_device_eval_batch_size", "7"]}.get(stage, [])
    train(stage, options(model_path, rows_file, held_out_file, folder, *extra))
    logged = held_out_log(folder)
    assert [entry["step"] for entry in logged] == [0, 1, 2]
    if stage == "sft":
        loss = -oracle["chosen"].sum() / oracle["chosen length"].sum()
        assert logged[0]["eval_loss"] == pytest.approx(loss.item(), abs=2e-5)
    if stage == "dpo":
        assert logged[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)  # the policy is the reference
    if stage in ("redi", "simpo"):
        margins = oracle["chosen"] / oracle["chosen length"] - oracle["rejected"] / oracle["rejected length"]
        assert logged[0]["eval_rewards/margins"] == pytest.approx(margins.mean().item(), abs=2e-5)
    assert logged[2]["eval_loss"] != logged[0]["eval_loss"]
    manifest = read_manifest(folder)
    assert manifest["counts"]["held_out_rows"] == NUM_HELD_OUT
    assert manifest["inputs"]["held-out dataset"]["path"] == held_out_file
    card = " ".join((folder / "README.md").read_text().split())
    assert "On held-out rows: | step | eval_loss |" in card and f"| 2 | {logged[2]['eval_loss']:.4g} |" in card
    assert f"held out: loss {logged[2]['eval_loss']:.4f}, " in capsys.readouterr().out
    panels = logged_panels({"run": folder})
    held_out = panels["loss (nats per token)" if stage == "sft" else CHOSEN]["run, held out"]
    key = "eval_loss" if stage == "sft" else "eval_logps/chosen"
    assert held_out == [(entry["step"], entry[key]) for entry in logged]
    if stage in ("redi", "simpo"):
        assert panels[MARGIN]["run, held out"][0] == (0, pytest.approx(logged[0]["eval_rewards/margins"], abs=1e-6))
    plot_training.main([str(folder), "--output", str(tmp_path / "plot.png")])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_errors_name_the_held_out_rows(model_path, rows_file, held_out_file, tmp_path):
    folder, bad = tmp_path / "run", tmp_path / "bad.parquet"
    Dataset.from_list([{"chosen": "x", "rejected": "y"}]).to_parquet(bad)
    with pytest.raises(UsageError, match="^eval_dataset_name=/nowhere does not exist"):
        train("redi", options(model_path, rows_file, "/nowhere", folder))
    with pytest.raises(UsageError, match="^eval_dataset_name=.*, dataset_eval_split=train.9:a"):
        train("redi", options(model_path, rows_file, held_out_file, folder, "--dataset_eval_split", "train[9:a]"))
    with pytest.raises(UsageError, match="^row 0 of eval_dataset_name: `chosen` must be a list"):
        train("redi", options(model_path, rows_file, str(bad), folder))
    with pytest.raises(UsageError, match="^eval_dataset_name=.*bad.parquet has the columns chosen, rejected, but"):
        train("sft", options(model_path, rows_file, str(bad), folder))
    assert not folder.exists()


def test_held_out_rows_that_are_trained_on_are_reported(model_path, held_out_file, tmp_path, capsys):
    split = ["--dataset_train_split", "train[:5]", "--dataset_eval_split", "train[3:]", "--tokenize_only", "true"]
    train("redi", options(model_path, held_out_file, held_out_file, tmp_path / "run", *split))
    assert "warning: eval_dataset_name: 2 of 4 rows are trained on as well" in capsys.readouterr().out


def test_evaluation_can_be_switched_off(model_path, rows_file, held_out_file, tmp_path):
    off = (["--eval_dataset_name", held_out_file, "--eval_strategy", "no"], ["--eval_dataset_name", ""])
    for number, held_out in enumerate(off):
        folder = tmp_path / str(number)
        batch = ["--per_device_train_batch_size", "2", "--max_steps", "1"]
        train("redi", arguments(model_path, rows_file, folder, *batch, *held_out))
        assert log_of(folder) and held_out_log(folder) == []


def test_a_finished_run_has_one_set_of_held_out_rows(model_path, rows_file, held_out_file, tmp_path):
    folder = tmp_path / "run"
    train("redi", options(model_path, rows_file, held_out_file, folder, "--max_steps", "1"))
    with pytest.raises(UsageError, match=f"holds a finished run with eval_dataset_name={held_out_file}, not None"):
        train("redi", arguments(model_path, rows_file, folder, "--per_device_train_batch_size", "2"))


@pytest.mark.parametrize(
    "stage, kind",
    [
        ("redi", "ddp"),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in (("sft", "ddp"), ("redi", "zero3"), ("sft", "fsdp2"))),
    ],
)
def test_two_processes_measure_what_one_does(stage, kind, model_path, rows_file, held_out_file, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(stage, options(model_path, rows_file, held_out_file, one, "--gradient_accumulation_steps", "2"))
    script = [str(REPOSITORY / f"scripts/train_{stage}.py"), *options(model_path, rows_file, held_out_file, two)]
    result = subprocess.run(
        [sys.executable, "-m", *launcher(kind, tmp_path), *script],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    unlike = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time")
    logs = [[{k: v for k, v in e.items() if k not in unlike} for e in held_out_log(run)] for run in (one, two)]
    assert len(logs[0]) == len(logs[1]) == 3
    for expected, actual in zip(*logs, strict=True):
        assert actual == pytest.approx(expected, rel=2e-5, abs=1e-6)
