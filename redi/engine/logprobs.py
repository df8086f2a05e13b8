"""Log-probabilities of chosen tokens from a causal language model, without building its logits."""

import functools
import types

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

# Columns of the logits that exist at a time. On CUDA as in TRL; on CPU, whose kernel passes over a tile several times,
# a tile that stays in the cache halves the time of the head.
CUDA_TILE, CPU_TILE = 32768, 1024

# Logits that exist at a time where their gradient is found with them: 0.5 GiB in float32; on CPU 8 MiB, for the cache.
CUDA_LOGITS, CPU_LOGITS = 2**27, 2**21


def add_scoring(model: PreTrainedModel) -> None:
    """Makes `model(..., positions=positions, targets=targets)` return log p(target) at the given positions.

    Only those positions go through the LM head, and only their log-probability is computed, in float32. Without
    `targets` the forward is the original one. Call it before the model is wrapped.

    `positions` `(S,)` index the flattened hidden states `(rows * T)`; `targets` `(S,)` are token ids; the result is
    `(S,)`, float32. With `coefficients` `(S,)` as well, what is returned is the pair of `sum(coefficients * logps)`,
    which is differentiable, and `logps`, which is not: see `SignedSum`, a third cheaper.

    Raises:
        ValueError: the model scales its logits in a way that the kernels are not told of.
    """
    config = model.config.get_text_config()
    scales = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    for name in scales:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(f"{type(model).__name__} scales its logits by {name}, which REDI does not support")
    softcap = getattr(config, "final_logit_softcapping", None)
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, positions=None, targets=None, coefficients=None, **kwargs):
        if targets is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state  # (rows, T, hidden)
        head = self.get_output_embeddings()
        scored = hidden.flatten(0, 1)[positions]  # (S, hidden)
        with maybe_gather_lm_head_ctx(head.weight, head.bias):
            weight, bias = head.weight, head.bias
            if isinstance(weight, torch.distributed.tensor.DTensor):  # FSDP2 shards the head; it is gathered once
                weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
            if coefficients is not None:
                return SignedSum.apply(scored, weight, bias, targets, coefficients, softcap)
            tile = min(CUDA_TILE if scored.is_cuda else CPU_TILE, weight.shape[0])
            outputs = ("log_probs",)
            return ChunkedLogProbFunction.apply(scored, weight, bias, targets, 1.0, tile, softcap, 1.0, outputs)[0]

    model.forward = types.MethodType(forward, model)


class SignedSum(torch.autograd.Function):
    """`sum(coefficients * log p(targets))` from hidden states, with its gradients found in the forward pass.

    The objective is a sum whose coefficients are known before the forward pass, so the gradient with respect to the
    logits z of a token, coefficient * (onehot(target) - softmax(z)), is known as soon as they are. They are computed
    once, a block of tokens at a time; a kernel that returns log-probabilities has to compute them again when the
    coefficients arrive in the backward pass.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        coefficients: torch.Tensor,
        softcap: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum, a scalar, and the log-probabilities `(S,)`, which have no gradient; float32.

        Args:
            hidden: `(S, H)`.
            weight: of the head. `(V, H)`
            bias: of the head, or None. `(V,)`
            targets: token ids. `(S,)`
            coefficients: float32. `(S,)`
            softcap: `final_logit_softcapping`: the logits are softcap * tanh(z / softcap).
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        # Coefficients are of the order of 1 / (tokens of the batch). Scaled to 1, their products do not underflow in
        # half precision; `backward` scales back.
        ctx.scale = coefficients.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        size = max(1, (CUDA_LOGITS if hidden.is_cuda else CPU_LOGITS) // len(weight))
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            for start in range(0, len(hidden), size):
                block = slice(start, start + size)
                states = hidden[block].to(dtype)
                logits = torch.nn.functional.linear(states, matrix, None if bias is None else bias.to(dtype))
                logps[block], grad = _with_gradient(logits, targets[block], coefficients[block] / ctx.scale, softcap)
                grad = grad.to(dtype)
                if needs_hidden:
                    grad_hidden[block] = grad @ matrix
                if needs_weight and dtype == torch.float32:
                    grad_weight.addmm_(grad.T, states)
                elif needs_weight:
                    grad_weight.add_(grad.T @ states)
                if needs_bias:
                    grad_bias += grad.sum(dim=0, dtype=torch.float32)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(logps)
        return (coefficients * logps).sum(), logps

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sum: torch.Tensor, _):
        factor = grad_sum * ctx.scale
        # In place, since the head's gradient is large: a graph can go backward only once.
        gradients = [None if gradient is None else gradient.mul_(factor) for gradient in ctx.gradients]
        del ctx.gradients
        return *gradients, None, None, None


def _with_gradient(
    logits: torch.Tensor, targets: torch.Tensor, coefficients: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities `(n,)`, and the gradient of sum(coefficients * logps) in the logits `(n, V)`."""
    logits, targets, coefficients = logits.float(), targets[:, None], coefficients[:, None]
    slope = 1.0
    if softcap is not None:
        logits = torch.tanh(logits / softcap)
        slope = 1 - logits**2
        logits = logits * softcap
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    logps = logits.gather(1, targets) - log_z
    grad = logits.sub_(log_z).exp_().mul_(-coefficients).scatter_add_(1, targets, coefficients)
    return logps[:, 0], grad if softcap is None else grad.mul_(slope)
