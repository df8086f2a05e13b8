"""Tests that need a CUDA device: `REDI_TEST_GPU=1 bash scripts/test.sh -m gpu`."""

import pytest
import torch
from datasets import Dataset
from helpers.oracle import config, logged, trained
from helpers.tiny import make_pairs

from redi.engine.attention import packed_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and REDI_TEST_GPU=1"),
]


@pytest.mark.parametrize("window", [None, 16])
def test_the_varlen_kernel_equals_sdpa_trace_by_trace(window):
    """Outputs and gradients in bfloat16 against float32 attention of each trace, with grouped key-value heads."""
    torch.manual_seed(0)
    boundaries = torch.tensor([0, 100, 130, 257], dtype=torch.int32, device="cuda")
    query = torch.randn(1, 8, 257, 64, device="cuda", requires_grad=True)
    key, value = (torch.randn(1, 2, 257, 64, device="cuda", requires_grad=True) for _ in range(2))
    weights = torch.randn(1, 257, 8, 64, device="cuda")
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        states = [x.to(dtype) for x in (query, key, value)]
        output, _ = packed_attention(
            None, *states, None, 0.125, cu_seq_lens_q=boundaries, max_length_q=127, sliding_window=window
        )
        gradients = torch.autograd.grad((output.float() * weights).sum(), (query, key, value))
        results.append((output.float(), *gradients))
    for expected, actual in zip(*results, strict=True):
        assert (actual - expected).norm() / expected.norm() < 0.02


def test_training_on_cuda_equals_the_cpu(tmp_path, model_path, tokenizer):
    losses = []
    for cpu in (True, False):
        args = config(tmp_path, per_device_train_batch_size=8, max_steps=3, learning_rate=1e-3, use_cpu=cpu)
        losses.append(logged(trained(model_path, tokenizer, args, Dataset.from_list(make_pairs(8))), "loss"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
