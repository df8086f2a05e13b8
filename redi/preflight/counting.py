"""Counts the bytes per token of a training step by running the model's own code on tensors without data.

Fake tensors have shapes and dtypes, but nothing is computed. A dispatch mode adds up the storages that are alive.
"""

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface

COUNTED = "redi_counted"  # an attention implementation


@dataclass(frozen=True)
class Activations:
    """Bytes per token, in the letters of `redi.preflight.memory`."""

    checkpointing: bool
    kept: float  # k
    forward: float  # f
    peak: float  # c


@dataclass(frozen=True)
class Precision:
    weights: torch.dtype  # of the loaded model
    autocast: bool  # to bfloat16

    @property
    def compute(self) -> torch.dtype:
        return torch.bfloat16 if self.autocast else self.weights


def count_activations(
    config: PreTrainedConfig, precision: Precision, checkpointing: bool, lora: Any = None, on_cpu: bool = False
) -> Activations:
    """Bytes per token of a training step of the model's layers."""
    config = copy.deepcopy(config)
    config.get_text_config().counted_on_cpu = on_cpu
    sizes = (2**14, 2**15)  # long enough that memory independent of the tokens does not decide where the peak is
    counts = {}
    for layers in (1, 2):
        runs = [_run_layers(config, layers, tokens, precision, checkpointing, lora) for tokens in sizes]
        counts[layers] = [(b - a) / (sizes[1] - sizes[0]) for a, b in zip(*runs, strict=True)]
    return Activations(checkpointing, counts[2][0] - counts[1][0], *counts[1])


def with_adapters(model: torch.nn.Module, lora: Any) -> torch.nn.Module:
    if lora is None:
        return model
    from peft import get_peft_model  # an optional package

    return get_peft_model(model, copy.deepcopy(lora), low_cpu_mem_usage=True).get_base_model()


class _Alive(TorchDispatchMode):
    """Bytes of the tensors created under it that are still referenced, and their maximum so far."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.sizes = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, storage._cdata)
        return result

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class _FlashAttention(torch.autograd.Function):
    """Shapes and memory of a flash kernel, which keeps its inputs, its output and one float32 per head and token."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:3], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _counted_attention(module, query, key, value, attention_mask, **kwargs):
    output = _FlashAttention.apply(query, key, value)
    if module.config.counted_on_cpu:  # there, `redi.engine.attention` concatenates the outputs of its traces
        output = torch.cat([output], dim=2)
    return output.transpose(1, 2), None


AttentionInterface.register(COUNTED, _counted_attention)
AttentionMaskInterface.register(COUNTED, lambda **kwargs: None)


def _materialize(model: torch.nn.Module) -> None:
    """Moves a model from the meta device, which has no autocast, to the CPU; for use under a `FakeTensorMode`."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                empty = torch.empty(p.shape, dtype=p.dtype)
                module._parameters[name] = torch.nn.Parameter(empty, requires_grad=p.requires_grad)
        module._buffers |= {name: torch.empty(b.shape, dtype=b.dtype) for name, b in module._buffers.items()}


def _run_layers(
    config: PreTrainedConfig, layers: int, tokens: int, precision: Precision, checkpointing: bool, lora: Any
) -> tuple[int, int]:
    """Bytes alive after the forward pass of that many layers, and the peak of forward and backward pass."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1] * layers
    text.vocab_size = 8  # the head is counted separately
    text.pad_token_id = None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=precision.weights, attn_implementation=COUNTED)
        model = with_adapters(model, lora)
    with FakeTensorMode(), _Alive() as alive:
        _materialize(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # allocated now, so as not to be counted with the layers
        inputs = torch.zeros(1, tokens, text.hidden_size, dtype=precision.weights, requires_grad=True)
        positions = torch.zeros(1, tokens, dtype=torch.long)
        alive.now = alive.peak = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
            body = model.base_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
        hidden, after_forward = body.last_hidden_state, alive.now
        hidden.backward(torch.zeros_like(hidden))
        return after_forward, alive.peak
