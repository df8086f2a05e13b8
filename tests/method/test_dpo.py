"""The DPO baseline: its loss at the start, and the tokens that it scores."""

import pytest
import torch
from helpers.commands import arguments, log_of
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM

from redi.evaluation.reporting.training_dynamics import logged_panels
from redi.text.encoding import encode
from redi.training import train


@pytest.mark.parametrize("options", [[], ["--precompute_ref_log_probs", "true"]], ids=["reference", "precomputed"])
def test_dpo_starts_at_log_2_with_the_eos_scored(model_path, rows_file, tmp_path, tokenizer, options):
    """At the first step policy and reference are equal, so the DPO loss is -log sigmoid(0) = log 2."""
    train("dpo", arguments(model_path, rows_file, tmp_path / "o", "--per_device_train_batch_size", "16", *options))
    log = log_of(tmp_path / "o")[0]
    assert log["loss"] == pytest.approx(0.693147, abs=1e-5)

    model, total, length = AutoModelForCausalLM.from_pretrained(model_path), 0.0, 0
    for row in make_pairs(16):
        prompt_ids, completion_ids = encode(tokenizer, row["prompt"], row["chosen"])
        assert completion_ids[-1] == tokenizer.eos_token_id
        logps = torch.log_softmax(model(torch.tensor([prompt_ids + completion_ids])).logits[0], -1)
        places = range(len(prompt_ids) - 1, len(prompt_ids) + len(completion_ids) - 1)
        total += sum(logps[t, token].item() for t, token in zip(places, completion_ids, strict=True)) / len(places)
        length += len(places)
    assert log["logps/chosen"] == pytest.approx(total / 16, rel=1e-5)
    assert log["completions/mean_length/chosen"] == length / 16


def test_dpo_and_redi_log_the_same_logps_before_the_first_update(model_path, rows_file, tmp_path):
    for stage in ("dpo", "redi"):
        options = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4", "--max_length", "100"]
        train(stage, arguments(model_path, rows_file, tmp_path / stage, *options))
    dpo, redi = log_of(tmp_path / "dpo")[0], log_of(tmp_path / "redi")[0]
    for name in (
        "logps/chosen",
        "logps/rejected",
        "completions/mean_length/chosen",
        "completions/mean_length/rejected",
    ):
        assert dpo[name] == pytest.approx(redi[name], rel=1e-5), name
    assert logged_panels({"dpo": tmp_path / "dpo", "redi": tmp_path / "redi"})["chosen LogPS (nats per token)"]["dpo"]
