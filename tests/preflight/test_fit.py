"""Which option to change if a step does not fit, and the disk space of checkpoints, by hand."""

from pathlib import Path
from types import SimpleNamespace

import torch

from redi.preflight import fit
from redi.preflight.counting import Precision
from redi.preflight.hours import QWEN_1_5B
from redi.preflight.memory import Strategy
from redi.preflight.recipe import read_recipe
from redi.preflight.report import Report

pytest_plugins = ["helpers.preflight"]


def remedy(fits: int, longest: int = 10_000, tokens: int = 40_000, stage: str = "redi", padded=None, **options) -> str:
    given = {"gradient_checkpointing": True, "padding_free": True, "per_device_train_batch_size": 1}
    given["max_tokens_per_micro_batch"] = None
    args = SimpleNamespace(**given | options)
    recipe = SimpleNamespace(
        trains_on_traces=stage == "redi" and args.padding_free, args=args, strategy=Strategy("zero2", 8)
    )
    load = SimpleNamespace(tokens=tokens)
    padded = not args.padding_free if padded is None else padded
    return fit.remedy(recipe, SimpleNamespace(longest=longest, load=load, padded=padded), fits)


def test_the_option_to_change_depends_on_what_is_too_large():
    assert "set accelerate_config: zero3" in remedy(fits=0)
    assert remedy(fits=9_000, gradient_checkpointing=False) == "set gradient_checkpointing: true"
    assert remedy(fits=15_070) == "set max_tokens_per_micro_batch: 15000"
    assert remedy(fits=8_000).startswith("set max_length: 8000, which cuts longer traces, or accelerate_config: zero3")
    assert remedy(fits=15_070, padded=True) == (
        "set max_tokens_per_micro_batch as low as needed, but not below the longest trace, 10000"
    )
    assert remedy(fits=15_070, padded=True, max_tokens_per_micro_batch=10_000).startswith("set max_length: ")
    sft = {"stage": "sft", "padding_free": False}
    assert remedy(fits=20_000, per_device_train_batch_size=4, **sft) == "set per_device_train_batch_size: 2"
    assert remedy(fits=20_000, tokens=20_001, longest=20_001, **sft).startswith("set max_length: 20000")


def test_most_tokens_that_fit():
    assert fit.most_tokens(lambda tokens: tokens <= 123, 1000) == 123
    assert fit.most_tokens(lambda tokens: False, 1000) == 0


def test_room_for_checkpoints_by_hand(job, monkeypatch):
    """ZeRO-2: bytes a parameter are 2 of weights, 2 of DeepSpeed's copy and 12 of optimizer state; 3 lie there."""
    shape, bf16 = QWEN_1_5B, Precision(torch.bfloat16, autocast=True)
    few = read_recipe(job.config(), ["--save_total_limit", "2"], 4)
    checkpoint, final = fit.checkpoint_bytes(few, shape, bf16)
    assert checkpoint == 16 * shape.params + fit.STATE_FILES + fit.TOKENIZER
    assert final == 2 * shape.params + fit.TOKENIZER
    assert fit.free_bytes(Path("/no/such/folder")) > 0

    def said(recipe) -> str:
        lines = []
        fit.check_disk(Report(lines.append), recipe, SimpleNamespace(shape=shape, precision=bf16), saves=9)
        return "\n".join(lines)

    monkeypatch.setattr(fit, "free_bytes", lambda path: 10**15)
    assert f"3 of {checkpoint / 1e9:.2f} GB each" in said(few)
    assert f"needs up to {(3 * checkpoint + final) / 1e9:.1f} GB" in said(few)
    assert f"needs up to {(9 * checkpoint + final) / 1e9:.1f} GB" in said(read_recipe(job.config(), [], 4))
    resumed = job.options["output_dir"] / "checkpoint-2"
    resumed.mkdir(parents=True)
    with (resumed / "optimizer.pt").open("wb") as file:
        file.truncate(checkpoint)  # takes no room
    assert f"needs up to {(2 * checkpoint + final) / 1e9:.1f} GB more" in said(few)
