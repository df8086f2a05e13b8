"""Which option to change if a step does not fit."""

from types import SimpleNamespace

from redi.preflight import fit
from redi.preflight.memory import Strategy

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
