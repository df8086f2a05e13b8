"""Whether a loaded model computes on packed or padded traces what it computes on each trace alone.

Its class does not tell: some models ignore the cumulative lengths that they are handed, others add sinks or windows
that the packed attention does not see, and some change the hidden states before the head. So short traces are run
through the loaded model before the first step.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redi.engine.attention import enable_packing
from redi.engine.batching import Trace, collate
from redi.runs.errors import UsageError

# Largest `relative_error` of logits. Half-precision rounding adds up over layers to a few percent.
TOLERANCE = {torch.float32: 3e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}

SHORT_WINDOW = 5  # tokens; less than the traces have
WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size")


def short_traces(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of two short texts of different lengths."""
    texts = ["What is 17 * 3? Let us think step by step: 10 * 3 + 7 * 3 = 30 + 21.", "The answer is 51, so"]
    return [tokenizer(text, add_special_tokens=False)["input_ids"][:24] for text in texts]


def choose_layout(
    forward: torch.nn.Module,
    model: PreTrainedModel,
    traces: list[list[int]],
    dtype: torch.dtype,
    layouts: tuple[str, ...] = ("packed", "padded"),
) -> tuple[str, str]:
    """The first of the layouts in which the model's logits are those of each trace alone with eager attention.

    All ranks must call it with the same arguments, and get the same answer. The model's attention is left as the
    chosen layout needs it.

    Args:
        forward: the model as it is trained, wrapped by DDP, DeepSpeed or FSDP.
        model: the same model, unwrapped.
        traces: token ids of short traces of different lengths.
        dtype: that the model computes in.

    Returns:
        The layout, and why an earlier one was not chosen (empty if it is the first).

    Raises:
        UsageError: no layout is right, or the logits of a trace alone are not finite.
    """
    loaded, reasons, name = model.config._attn_implementation, [], type(model).__name__
    with _probing(model, forward):
        model.set_attn_implementation("eager")
        alone = [_logits(forward, _inputs([ids], False, model.device))[0] for ids in traces]
        model.set_attn_implementation(loaded)
        if relative_error(alone, alone) > 0:
            raise UsageError(f"the logits of {name} are NaN or infinite: its weights are damaged, or made for float32")
        for layout in layouts:
            packs = layout == "packed"
            reason = enable_packing(model) if packs else None
            if reason is None:
                rows = _logits(forward, _inputs(traces, packs, model.device)).flatten(0, 1)
                longest, start, parts = max(map(len, traces)), 0, []
                for ids in traces:
                    parts.append(rows[start : start + len(ids)])
                    start += len(ids) if packs else longest
                error = relative_error(parts, alone)
                if error <= TOLERANCE.get(dtype, TOLERANCE[torch.float32]):
                    return layout, "; ".join(reasons)
                reason = f"{layout}, the logits of {name} differ from those of each trace alone by {error:.2g}"
            reasons.append(reason)
            model.set_attn_implementation(loaded)
    remedy = "use another model" if "padded" in layouts else "remove packing"
    raise UsageError(f"{'; '.join(reasons)}: {remedy}")


def check_head(forward: torch.nn.Module, model: PreTrainedModel, traces: list[list[int]], dtype: torch.dtype) -> None:
    """Compares the log-probabilities of `redi.engine.logprobs.add_scoring` with those of the model's own logits.

    Raises:
        UsageError: the model does more after its last hidden states than the engine's head.
    """
    inputs = _inputs([max(traces, key=len)], False, model.device)
    if model.base_model is model:
        raise UsageError(f"{type(model).__name__} has no part before its head, so REDI cannot score its hidden states")
    with _probing(model, forward):
        logps = _logits(forward, inputs)[0].log_softmax(dim=-1)  # (T, vocabulary)
        targets = torch.stack([logps.argmax(dim=-1), logps.argmin(dim=-1), inputs["input_ids"][0]])  # (3, T)
        positions = torch.arange(len(logps), device=logps.device).expand(3, -1)
        scored = forward(**inputs, positions=positions.flatten(), targets=targets.flatten())
        error = relative_error([scored], [logps[positions, targets].flatten()])
    if error > TOLERANCE.get(dtype, TOLERANCE[torch.float32]):
        raise UsageError(
            f"{type(model).__name__} scales or transforms its hidden states before the logits, which REDI does not "
            f"support: log-probabilities differ by {error:.2g}"
        )


def relative_error(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest |actual - expected| / |expected - mean|, Euclidean norms, over the tensors and over all ranks.

    Means are taken over the last dimension. NaN and infinite values are an infinite error.
    """
    errors = [
        (a - b).norm() / (b - b.mean(dim=-1, keepdim=True)).norm().clamp_min(1e-12)
        for a, b in zip(actual, expected, strict=True)
    ]
    error = torch.stack(errors).nan_to_num(nan=math.inf).max()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(error, op=torch.distributed.ReduceOp.MAX)
    return error.item()


def _inputs(traces: list[list[int]], pack: bool, device: torch.device) -> dict[str, Any]:
    batch = collate([Trace(ids, 1, 1.0, True, 0) for ids in traces], pack, pad_token_id=0)["model_inputs"]
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _logits(forward: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    return forward(**inputs, use_cache=False).logits.float()  # (rows, T, vocabulary)


@contextmanager
def _probing(model: PreTrainedModel, forward: torch.nn.Module) -> Iterator[None]:
    """Without gradients and dropout, and with sliding windows shorter than the traces."""
    owners = {id(owner): owner for module in model.modules() for owner in (module, getattr(module, "config", None))}
    windows = [(owner, name, getattr(owner, name, None)) for owner in owners.values() for name in WINDOWS]
    windows = [window for window in windows if type(window[2]) is int and window[2] > SHORT_WINDOW]
    # All by the same number: a layer may count its window in another way than the mask does.
    cut = min((value for *_, value in windows), default=0) - SHORT_WINDOW
    was_training = model.training
    for owner, name, value in windows:
        setattr(owner, name, value - cut)
    forward.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        forward.train(was_training)
        for module in forward.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # without a backward pass, some weights stay gathered, in bfloat16
        for owner, name, value in windows:
            setattr(owner, name, value)
