"""Log-probabilities of chosen tokens from a causal language model, without building its logits."""

import functools
import types

import torch
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

# Columns of the logits that exist at a time. On CUDA as in TRL; on CPU, whose kernel passes over a tile several times,
# a tile that stays in the cache halves the time of the head.
CUDA_TILE, CPU_TILE = 32768, 1024


def add_scoring(model: PreTrainedModel) -> None:
    """Makes `model(..., positions=positions, targets=targets)` return log p(target) at the given positions.

    Only those positions go through the LM head, in tiles of TRL's chunked kernel, and only their log-probability is
    computed, in float32. Without `targets` the forward is the original one. Call it before the model is wrapped.

    `positions` `(S,)` index the flattened hidden states `(rows * T)`; `targets` `(S,)` are token ids; the result is
    `(S,)`, float32.

    Raises:
        ValueError: the model scales its logits in a way that the kernel is not told of.
    """
    config = model.config.get_text_config()
    scales = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    for name in scales:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(f"{type(model).__name__} scales its logits by {name}, which REDI does not support")
    softcap = getattr(config, "final_logit_softcapping", None)
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, positions=None, targets=None, **kwargs):
        if targets is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state  # (rows, T, hidden)
        head = self.get_output_embeddings()
        scored = hidden.flatten(0, 1)[positions]  # (S, hidden)
        with maybe_gather_lm_head_ctx(head.weight, head.bias):
            return _logps(scored, head, targets, softcap)

    model.forward = types.MethodType(forward, model)


def _logps(hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, softcap: float | None) -> torch.Tensor:
    weight, bias = head.weight, head.bias
    if isinstance(weight, torch.distributed.tensor.DTensor):  # FSDP2 shards the head; it is gathered once
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    tile = min(CUDA_TILE if hidden.is_cuda else CPU_TILE, weight.shape[0])
    outputs = ("log_probs",)
    return ChunkedLogProbFunction.apply(hidden, weight, bias, targets, 1.0, tile, softcap, 1.0, outputs)[0]
