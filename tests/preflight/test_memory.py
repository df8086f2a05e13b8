"""Memory of a training step: the table of strategies, and what a layer keeps against autograd."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from redi.engine.attention import enable_packing
from redi.preflight.counting import Precision, count_activations
from redi.preflight.hours import QWEN_1_5B
from redi.preflight.memory import Load, Strategy, peak_memory, shape_of

pytest_plugins = ["helpers.preflight"]


TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


BF16 = Precision(torch.bfloat16, autocast=True)


def test_sizes_of_the_papers_model():
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_attention_heads=12,
        num_key_value_heads=2,
        num_hidden_layers=28,
        tie_word_embeddings=True,
    )
    assert shape_of(config) == QWEN_1_5B
    assert count_activations(config, BF16, checkpointing=True).kept == 1536 * 2  # the layer's input


@pytest.mark.parametrize(
    "kind, weights, gradients, optimizer",
    [("none", 2, 2, 4), ("ddp", 2, 2, 4), ("zero2", 2, 2 / 8, 12 / 8), ("zero3", 2 / 8, 2 / 8, 12 / 8)],
)
def test_states_by_strategy(kind, weights, gradients, optimizer):
    """Bytes a parameter on 8 GPUs; a micro-batch of many before it, so that gradients are there at the peak."""
    shape = QWEN_1_5B
    counts = SimpleNamespace(checkpointing=True, kept=3072.0, forward=12804.0, peak=149048.0)
    load = Load(tokens=40_000, scored=39_000, several=True, signed_sum=True)
    parts = peak_memory(shape, counts, BF16, Strategy(kind, 8), load)
    found = [parts[name] / shape.params for name in ("weights", "gradients", "optimizer")]
    assert found == pytest.approx([weights, gradients, optimizer])
    assert parts["activations"] == 40_000 * (27 * 3072 + 149048)  # 27 inputs, and one layer at work
    offloaded = peak_memory(shape, counts, BF16, Strategy(kind, 8, offload_optimizer=True), load)
    assert offloaded["optimizer"] == 0


def test_what_a_layer_keeps_is_what_autograd_saves():
    """The oracle: tensors saved for the backward pass by a real model on real data, with one layer and with two."""
    tokens, kept = 256, []
    for layers in (1, 2):
        config = Qwen2Config(vocab_size=64, **TINY | {"num_hidden_layers": layers})
        model = AutoModelForCausalLM.from_config(config)
        enable_packing(model)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        saved = {}

        def pack(tensor, saved=saved, own=own):
            if tensor.data_ptr() not in own:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(
                inputs_embeds=torch.randn(1, tokens, 32, requires_grad=True),
                position_ids=torch.arange(tokens)[None],
                cu_seq_lens_q=torch.tensor([0, tokens], dtype=torch.int32),
                use_cache=False,
            )
        kept.append(sum(storage.nbytes() for storage in saved.values()))
    counted = count_activations(config, Precision(torch.float32, autocast=False), checkpointing=False, on_cpu=True)
    assert counted.kept == pytest.approx((kept[1] - kept[0]) / tokens, rel=0.03)
