"""Packed attention against one trace at a time, for several architectures."""

import pytest
import torch
from helpers.tiny import make_model

from redi.engine.attention import enable_packing
from redi.engine.logprobs import add_scoring

OPTIONS = {
    "Qwen2": {"use_sliding_window": False},
    "Qwen3": {"head_dim": 8},
    "Llama": {},
    "Mistral": {"sliding_window": 6},
}


@pytest.mark.parametrize("architecture", OPTIONS)
def test_packed_equals_one_trace_at_a_time(architecture):
    """With sliding windows too (Mistral), and with log-probabilities of the scored positions only."""
    model = make_model(seed=1, architecture=architecture, **OPTIONS[architecture]).eval()
    traces = [torch.randint(1, 300, (length,)) for length in (17, 5, 30)]
    expected = torch.cat(
        [torch.log_softmax(model(t[None]).logits[0, :-1], -1).gather(1, t[1:, None])[:, 0] for t in traces]
    )
    assert enable_packing(model) is None
    add_scoring(model)
    boundaries = torch.tensor([0, 17, 22, 52], dtype=torch.int32)
    packed = model(
        input_ids=torch.cat(traces)[None],
        position_ids=torch.cat([torch.arange(len(t)) for t in traces])[None],
        cu_seq_lens_q=boundaries,
        cu_seq_lens_k=boundaries,
        max_length_q=30,
        max_length_k=30,
        positions=torch.tensor([i for i in range(52) if i not in (16, 21, 51)]),
        targets=torch.cat([t[1:] for t in traces]),
    )
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)
