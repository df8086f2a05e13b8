"""The model card of a finished run, and of one that has not finished."""

import json
import signal

import pytest
from datasets import Dataset
from helpers.commands import arguments, log_of
from helpers.tiny import make_pairs
from huggingface_hub import ModelCard

from redi import REDIConfig, REDITrainer
from redi.callbacks import StopOnSignal
from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.runs.model_card import set_scores
from redi.training import train


def test_the_model_card_says_what_was_done_and_takes_scores(model_path, rows_file, tmp_path):
    train("redi", arguments(model_path, rows_file, tmp_path / "o", "--alpha", "0.5"))
    card = ModelCard.load(tmp_path / "o" / "README.md")
    assert card.data.tags == ["redi"] and "| `alpha` | `0.5` |" in " ".join(card.text.split())
    assert f"Trained from `{model_path}` on `{rows_file}`: rows 16, rows trained on 16, steps 2" in card.text
    loss = log_of(tmp_path / "o")[-1]["loss"]
    assert f"| 2 | {loss:.4g} |" in " ".join(card.text.split())
    for scores in ("first", "| benchmark | pass@1 |"):
        set_scores(tmp_path / "o", scores)
    text = (tmp_path / "o" / "README.md").read_text()
    assert "## Scores\n\n| benchmark | pass@1 |\n\n## Versions\n" in text and "first" not in text
    with pytest.raises(UsageError, match="has no model card"):
        set_scores(tmp_path, "x")


def test_manifest_and_card_tell_what_happened_over_resumes(model_path, rows_file, tmp_path):
    """16 rows in steps of 4, cut at 120 tokens: 2 steps see 8 rows; the run is then made longer."""
    options = ["--per_device_train_batch_size", "4", "--max_length", "120", "--save_strategy", "steps"]
    argv = arguments(model_path, rows_file, tmp_path / "o", *options, "--save_steps", "2")
    train("redi", argv)
    manifest = read_manifest(tmp_path / "o")
    counts = manifest["counts"]
    assert (counts["rows"], counts["rows_trained_on"], counts["steps"]) == (16, 8, 2)
    assert counts["positives"] == counts["negatives"] == 16 and 0 < counts["cut"] < 32
    assert [start["after_step"] for start in manifest["starts"]] == [0]
    assert (
        f"steps 2, world size 1, dropped empty 0, dropped long prompt 0, cut {counts['cut']}, positives 16"
        in (tmp_path / "o" / "README.md").read_text()
    )

    record = {"config": manifest["config"], "inputs": manifest["inputs"], "starts": manifest["starts"]}
    (tmp_path / "o" / "started.json").write_text(json.dumps(record))  # as if killed after the second step
    (tmp_path / "o" / "manifest.json").unlink()
    train("redi", [*argv, "--max_steps", "6", "--bf16", "true"])
    manifest = read_manifest(tmp_path / "o")
    assert (manifest["counts"]["rows_trained_on"], manifest["counts"]["steps"]) == (16, 6)
    starts = [(start["after_step"], start["max_steps"], start["bf16"]) for start in manifest["starts"]]
    assert starts == [(0, 2, False), (2, 6, True)]
    card = (tmp_path / "o" / "README.md").read_text()
    assert "Resumed after step 2 with `bf16` False -> True, `max_steps` 2 -> 6." in card


def test_simpo_has_no_alpha(model_path, rows_file, tmp_path):
    argv = arguments(model_path, rows_file, tmp_path / "o", "--objective", "simpo")
    with pytest.raises(UsageError, match="alpha=0.8 is not read with objective='simpo'"):
        train("simpo", [*argv, "--alpha", "0.8"])
    train("simpo", argv)
    assert "`alpha`" not in (tmp_path / "o" / "README.md").read_text()
    assert "alpha" not in read_manifest(tmp_path / "o")["config"]


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_the_card_of_an_unfinished_run_says_so_until_it_is_finished(
    stage, model_path, rows_file, tmp_path, monkeypatch
):
    def stop(self, args, state, control, **kwargs):
        if state.global_step == 1:
            signal.raise_signal(signal.SIGTERM)

    argv = arguments(model_path, rows_file, tmp_path / "o", "--max_steps", "3")
    monkeypatch.setattr(StopOnSignal, "on_step_begin", stop, raising=False)
    with pytest.raises(SystemExit):
        train(stage, argv)
    text = (tmp_path / "o" / "README.md").read_text()
    assert "Step 2 of 3. **This run has not finished**: there are checkpoints, but no final model." in text
    assert f"The start model is `{model_path}`." in text and "None" not in text and "fine-tuned version" not in text
    with pytest.raises(UsageError, match="has no model card"):
        set_scores(tmp_path / "o", "x")
    monkeypatch.undo()
    train(stage, argv)
    text = (tmp_path / "o" / "README.md").read_text()
    assert "not finished" not in text and "steps 3" in text


def test_the_card_of_a_trainer_in_python_is_true(model_path, tmp_path):
    args = REDIConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=2, save_steps=1, report_to="none")
    REDITrainer(model=model_path, args=args, train_dataset=Dataset.from_list(make_pairs(8))).train()
    card = ModelCard.load(tmp_path / "README.md")
    assert "Step 2 of 2.\n" in card.text and "Reinforcement Distillation (REDI)" in card.text
    assert f"The start model is `{model_path}`." in card.text and card.data.tags == ["redi"]


@pytest.mark.parametrize(
    "stage, options, expected",
    [
        ("sft", [], "Supervised fine-tuning (SFT) on correct reasoning traces, the first stage of REDI ("),
        ("sft", ["--padding_free", "false", "--loss_type", "dft"], " with `loss_type` dft, unlike the first stage of"),
        ("dpo", [], "Direct preference optimization (DPO), a baseline of REDI ("),
        ("dpo", ["--loss_type", "ipo"], "(DPO) with `loss_type` ['ipo'], unlike a baseline of REDI ("),
        ("dpo", ["--label_smoothing", "0.1"], "(DPO) with `label_smoothing` 0.1, unlike a baseline of REDI ("),
        ("redi", ["--objective", "simpo"], "The SimPO baseline of REDI ("),
    ],
)
def test_the_card_names_the_loss_of_the_run(stage, options, expected, model_path, rows_file, tmp_path):
    train(stage, arguments(model_path, rows_file, tmp_path, "--max_steps", "1", *options))
    assert expected in (tmp_path / "README.md").read_text()
