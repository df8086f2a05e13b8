"""Stage 1: what is scored, and the loss without padding, against log-softmax row by row."""

import pytest
import torch
from datasets import Dataset
from helpers.commands import arguments, log_of
from transformers import AutoModelForCausalLM

from redi.text.training_rows import prepare_rows
from redi.training import train

BATCH = ["--per_device_train_batch_size", "16"]  # all rows


@pytest.fixture()
def rows(rows_file, tokenizer) -> Dataset:
    return prepare_rows(Dataset.from_parquet(rows_file), ("positives",), tokenizer, None)[0]


def mean_loss(model_path: str, rows: Dataset, limit: int | None = None) -> float:
    """The mean of -log p over the completion tokens of all rows, one row at a time."""
    model, total, count = AutoModelForCausalLM.from_pretrained(model_path), 0.0, 0
    for row in rows:
        ids, labels = row["input_ids"][:limit], row["labels"][:limit]
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        for t, label in enumerate(labels[1:]):
            if label != -100:
                total, count = total - logps[t, label].item(), count + 1
    return total / count


def test_the_completion_with_its_end_of_turn_and_eos_is_scored(tokenizer, rows):
    row = rows[1]
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(trained) == (
        "<think>\nstep 0 is 1. step 1 is 2.\n</think>\n\\boxed{2}<|im_end|>\n<|endoftext|>"
    )
    masked = row["input_ids"][: -len(trained)]
    assert tokenizer.decode(masked).endswith("<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("option", [None, "padding_free", "packing"])
def test_the_loss_is_the_mean_over_completion_tokens(model_path, rows_file, rows, tmp_path, option):
    """One batch of all 16 rows: padded, in one row without padding, or packed; the rows do not see each other."""
    options = [] if option is None else [f"--{option}", "true"]
    train("sft", arguments(model_path, rows_file, tmp_path / "o", *BATCH, *options))
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(mean_loss(model_path, rows), abs=2e-5)


def test_without_padding_rows_are_cut_at_max_length_with_a_message(model_path, rows_file, rows, tmp_path, capsys):
    lengths = sorted(len(ids) for ids in rows["input_ids"])
    limit, num_long = lengths[8], sum(length > lengths[8] for length in lengths)
    options = [*BATCH, "--padding_free", "true", "--max_length", str(limit)]
    train("sft", arguments(model_path, rows_file, tmp_path / "o", *options))
    assert num_long > 0 and f"max_length={limit} cuts {num_long} of 16 traces at the end" in capsys.readouterr().out
    assert log_of(tmp_path / "o")[0]["loss"] == pytest.approx(mean_loss(model_path, rows, limit), abs=2e-5)
