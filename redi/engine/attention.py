"""Attention within each trace of a packed row. The flash-attn package is not required.

The model's forward receives the traces' cumulative lengths (`cu_seq_lens_q`), and attention runs trace by trace:
torch's varlen flash kernel in half precision on CUDA, scaled-dot-product attention per trace otherwise. No mask over
the full row is ever built, so memory is linear in its length. Without cumulative lengths (evaluation, generation), it
is plain SDPA.
"""

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils.generic import is_flash_attention_requested

NAME = "redi_packed"
_HALF = (torch.float16, torch.bfloat16)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention over a packed row, with the signature of a transformers attention implementation.

    Args:
        query: `(1, H, T, D)`; key and value: `(1, H_kv, T, D)`.
        cu_seq_lens_q: the start of each trace, then T. `(num_traces + 1,)`, int32
        max_length_q: length of the longest trace.
        sliding_window: how many positions a token attends to, including its own. None means all earlier ones.

    Returns:
        The outputs `(1, T, H, D)`, and None for the attention weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if query.is_cuda and query.dtype in _HALF:
        from torch.nn.attention.varlen import varlen_attn

        rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # (T, H, D)
        window = (-1 if sliding_window is None else sliding_window - 1, 0)
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return varlen_attn(*rows, *bounds, scale=scaling, window_size=window, enable_gqa=True)[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    traces = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = [_one_trace(*states, scaling, dropout, sliding_window) for states in traces]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _one_trace(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float, window: int | None
) -> torch.Tensor:
    """Causal attention over one trace. All tensors are `(1, heads, n, D)`."""
    n = query.shape[2]
    mask = None
    if window is not None and n > window:
        distance = torch.arange(n, device=query.device)[:, None] - torch.arange(n, device=query.device)[None]
        mask = (distance >= 0) & (distance < window)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _mask(attention_mask: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor | None:
    """No mask for a packed row, which has no attention mask; SDPA's mask for a padded batch."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **kwargs)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)


def enable_packing(model: PreTrainedModel) -> str | None:
    """Asks the model to attend only within the traces of a packed row; `redi.engine.agreement` finds out if it does.

    A model that uses a flash-attention package keeps it, because those kernels read the cumulative lengths themselves.
    Caps are checked here, because too few scores of short traces reach them.

    Returns:
        None, or the reason why this model cannot be packed. In that case the model is unchanged.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or [])
    if not model._supports_attention_backend or model._is_stateful or layers - {"full_attention", "sliding_attention"}:
        return f"{type(model).__name__} has layers that cannot be told where traces begin"
    if is_flash_attention_requested(config):
        return None
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention caps logits (attn_logit_softcapping), which can be packed only with flash-attention"
    model.set_attn_implementation(NAME)
    return None
