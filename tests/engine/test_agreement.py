"""What is found out at start: packed and padded traces, and the engine's head, against each trace alone."""

import re
from collections import defaultdict

import pytest
import torch
from helpers import architectures
from helpers.paths import REPOSITORY
from helpers.tiny import make_model

from redi.engine.agreement import check_head, choose_layout
from redi.engine.logprobs import add_scoring
from redi.runs.errors import UsageError

TRACES = [list(range(5, 26)), list(range(60, 73)), list(range(200, 209))]
FLOAT32 = torch.float32


def layout_of(name: str) -> tuple[str, str]:
    model = architectures.tiny_model(name)
    return choose_layout(model, model, TRACES, FLOAT32)


@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral", "gemma3_text", "afmoe"])
def test_a_model_that_agrees_is_packed(name):
    assert layout_of(name) == ("packed", "")


@pytest.mark.parametrize("name", ["gpt_oss", "nemotron", "granite_swa", "mimo_v2_flash"])
def test_a_model_that_ignores_what_it_is_handed_is_padded(name):
    """Attention sinks, no cumulative lengths, and sliding windows that only the mask knows."""
    layout, reason = layout_of(name)
    assert layout == "padded"
    assert re.fullmatch(r"packed, the logits of \w+ differ from those of each trace alone by [\d.]+", reason)


def test_a_model_that_sees_padding_is_refused():
    with pytest.raises(UsageError, match="packed, the logits .*; padded, the logits .*: use another model"):
        layout_of("doge")


def test_packing_that_the_user_asked_for_is_refused():
    model = architectures.tiny_model("gpt_oss")
    with pytest.raises(UsageError, match="remove packing"):
        choose_layout(model, model, TRACES, FLOAT32, ("packed",))


def test_the_real_window_is_longer_than_the_traces_and_is_restored():
    """A window that the layers do not hand on is found without a trace of its length."""
    model = architectures.tiny_model("granite_swa")
    model.config.sliding_window = 4096
    assert choose_layout(model, model, TRACES, FLOAT32)[0] == "padded"
    assert model.config.sliding_window == 4096 and model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name, layout", [("qwen2", "packed"), ("nemotron", "padded")])
def test_half_precision_is_told_from_an_error(name, layout, dtype):
    model = architectures.tiny_model(name).to(dtype)
    assert choose_layout(model, model, TRACES, dtype)[0] == layout


def test_damaged_weights_are_refused():
    model = make_model()
    model.get_input_embeddings().weight.data[5] = float("nan")
    with pytest.raises(UsageError, match="the logits of Qwen2ForCausalLM are NaN or infinite"):
        choose_layout(model, model, TRACES, FLOAT32)


@pytest.mark.parametrize("name, option", [("granite", {"logits_scaling": 8.0}), ("cohere", {"logit_scale": 0.1})])
def test_a_head_that_scales_logits_is_refused(name, option):
    model = architectures.tiny_model(name, **option)
    add_scoring(model)
    with pytest.raises(UsageError, match="before the logits, which REDI does not support"):
        check_head(model, model, TRACES, FLOAT32)


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_a_plain_head_and_one_with_a_cap_agree(name):
    model = architectures.tiny_model(name)
    add_scoring(model)
    check_head(model, model, TRACES, FLOAT32)


def outcome(name: str) -> str:
    """What becomes of an architecture. A tiny configuration may be inconsistent: its forward pass then fails too."""
    try:
        model = architectures.tiny_model(name)
        model(torch.tensor([TRACES[0]]), use_cache=False)
    except Exception:
        return "not built"
    try:
        layout, reason = choose_layout(model, model, TRACES, FLOAT32)
        add_scoring(model)
        check_head(model, model, TRACES, FLOAT32)
    except UsageError as error:
        return "head" if "hidden states" in str(error) else "refused"
    return f"{layout}: measured" if "differ" in reason else layout


@pytest.mark.slow
def test_sweep_over_transformers():
    """The table in docs/training.md. A new version of transformers may change it."""
    found = defaultdict(list)
    for name in architectures.NAMES:
        found[outcome(name)].append(name)
    page = (REPOSITORY / "docs/training.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| .* \| \d+ \| .* \|$", line)]
    for kind, row in zip(("packed", "padded", "padded: measured", "refused", "head", "not built"), rows, strict=True):
        names = sorted(found[kind])
        assert row.split(" | ")[1] == str(len(names)), (kind, names)
        if kind != "packed":
            assert row.split(" | ")[2].removesuffix(" |") == ", ".join(names)
