"""Log-probabilities of given tokens under a causal language model, without storing its logits."""

import functools
import types
from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

# Columns of the logits that are in memory at a time. The CUDA value is TRL's. The CPU kernel passes over a tile
# several times, so a tile that fits the cache halves the time of the head.
CUDA_TILE, CPU_TILE = 32768, 1024

# Logits that are in memory at a time in `SignedSum`: 0.5 GiB in float32 on CUDA; 8 MiB on CPU, to fit the cache.
CUDA_LOGITS, CPU_LOGITS = 2**27, 2**21

TokenTerm = Callable[[torch.Tensor], torch.Tensor]


def token_terms(logps: torch.Tensor, coefficients: torch.Tensor, negative_term: TokenTerm | None) -> torch.Tensor:
    """What the coefficients multiply: log-probabilities, or `negative_term` of them where coefficients are positive.

    All are `(S,)`. `negative_term` must be finite, with a finite gradient, also where it is not used.
    """
    return logps if negative_term is None else torch.where(coefficients > 0, negative_term(logps), logps)


def add_scoring(model: PreTrainedModel, negative_term: TokenTerm | None = None) -> None:
    """Makes `model(..., positions=positions, targets=targets)` return log p(target) at the given positions.

    Only those positions go through the LM head, and only the targets' log-probabilities are computed, in float32.
    Without `targets`, the forward is the original one. Call this before the model is wrapped.

    `positions` `(S,)` index the flattened hidden states `(rows * T)`. `targets` `(S,)` are token ids. The result is
    `(S,)`, float32. If `coefficients` `(S,)` are given too, the result is `sum(coefficients * token_terms)`, which is
    differentiable, and `logps` and whether each target is the likeliest token, which are not. This is a third cheaper;
    see `SignedSum`. Both `coefficients` and these `logps` are float32 viewed as int32: DeepSpeed and FSDP2 round
    floating tensors at the model's door to bfloat16.

    `redi.engine.agreement.check_head` compares the result with the model's own logits.
    """
    config = model.config.get_text_config()
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
            if isinstance(weight, torch.distributed.tensor.DTensor):  # FSDP2 shards the head, so it is gathered once
                weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
            if not torch.is_grad_enabled():  # of a held-out trace, whose head needs no gradient
                weight, bias = weight.detach(), None if bias is None else bias.detach()
            if coefficients is not None:
                coefficients = coefficients.view(torch.float32)
                total, logps, is_top1 = SignedSum.apply(
                    scored, weight, bias, targets, coefficients, softcap, negative_term
                )
                return total, logps.view(torch.int32), is_top1
            tile = min(CUDA_TILE if scored.is_cuda else CPU_TILE, weight.shape[0])
            outputs = ("log_probs",)
            return ChunkedLogProbFunction.apply(scored, weight, bias, targets, 1.0, tile, softcap, 1.0, outputs)[0]

    model.forward = types.MethodType(forward, model)


class SignedSum(torch.autograd.Function):
    """`sum(coefficients * token_terms)` from hidden states, with gradients computed in the forward pass.

    The coefficients of the sum are known before the forward pass. So the gradient with respect to a token's logits z,
    coefficient * (onehot(target) - softmax(z)), is known as soon as z is. So is its factor with a `negative_term`, the
    slope of that term. The logits are computed once, a block of tokens at a time. A kernel that returns
    log-probabilities must compute them again in the backward pass, when the coefficients arrive.
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
        negative_term: TokenTerm | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The sum, a float32 scalar; without gradient the float32 log-probabilities and whether targets are likeliest.

        Args:
            hidden, targets, coefficients: at the scored positions; coefficients are float32. `(S, H)`, `(S,)`, `(S,)`
            weight, bias: of the LM head. `(V, H)`, `(V,)`
            softcap: `final_logit_softcapping`, or None. The logits are softcap * tanh(z / softcap).
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        # Coefficients are about 1 / (tokens of the batch). Scaled to 1, their products do not underflow in half
        # precision. `backward` scales back.
        ctx.scale = coefficients.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        is_top1 = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        size = max(1, (CUDA_LOGITS if hidden.is_cuda else CPU_LOGITS) // len(weight))
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            for start in range(0, len(hidden), size):
                block = slice(start, start + size)
                states = hidden[block].to(dtype)
                logits = torch.nn.functional.linear(states, matrix, None if bias is None else bias.to(dtype))
                logps[block], is_top1[block], grad = _with_gradient(
                    logits, targets[block], coefficients[block] / ctx.scale, softcap, negative_term
                )
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
        ctx.mark_non_differentiable(logps, is_top1)
        return (coefficients * token_terms(logps, coefficients, negative_term)).sum(), logps, is_top1

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sum: torch.Tensor, *_):
        factor = grad_sum * ctx.scale
        # In place, because the head's gradient is large. A graph can therefore run backward only once.
        gradients = [None if gradient is None else gradient.mul_(factor) for gradient in ctx.gradients]
        del ctx.gradients
        return *gradients, None, None, None, None


def _with_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    coefficients: torch.Tensor,
    softcap: float | None,
    negative_term: TokenTerm | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities and whether the targets are the likeliest, `(n,)`, and the gradient of `SignedSum`'s value.

    The gradient with respect to the logits, `(n, V)`, is computed in their memory if they are float32.
    """
    logits, targets, coefficients = logits.float(), targets[:, None], coefficients[:, None]
    slope = None
    if softcap is not None:
        logits = torch.tanh(logits / softcap)
        slope = 1 - logits**2
        logits = logits * softcap
    logits = logits.sub_(logits.amax(dim=-1, keepdim=True))
    below = logits.gather(1, targets)  # the likeliest token
    exps = logits.exp_()
    own = exps.gather(1, targets)
    others = exps.scatter_(1, targets, 0.0).sum(dim=-1, keepdim=True)  # 1 - p = others / sums, exact also near p = 1
    sums = own + others
    logps = below - torch.where(below == 0, others.log1p(), sums.log())
    if negative_term is not None:
        with torch.enable_grad():
            leaf = logps.detach().requires_grad_()
            total = token_terms(leaf, coefficients, negative_term).sum()
        coefficients = coefficients * torch.autograd.grad(total, leaf)[0]
    grad = exps.mul_(-coefficients / sums).scatter_(1, targets, coefficients * others / sums)
    grad = grad if slope is None else grad.mul_(slope)
    return logps[:, 0], (below == 0)[:, 0], grad
