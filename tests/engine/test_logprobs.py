"""`SignedSum`, with gradients computed in the forward pass, against autograd on the formula."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from redi.engine import logprobs
from redi.engine.logprobs import SignedSum, add_scoring
from redi.losses import unlikelihood

VOCAB, HIDDEN, TOKENS = 50, 8, 11


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Hidden states, weight and bias of a head, targets, and coefficients of both signs and realistic size."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((TOKENS, HIDDEN), (VOCAB, HIDDEN), (VOCAB,))
    )
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    return hidden, weight, bias, targets, torch.randn(TOKENS, generator=generator) / 20000


def oracle(hidden, weight, bias, targets, coefficients, softcap, bounded=False):
    logits = hidden @ weight.T + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logps = logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]
    negatives = -torch.log1p(-logps.exp()) if bounded else logps
    return (coefficients * torch.where(coefficients > 0, negatives, logps)).sum(), logps


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)])
def test_value_and_gradients(monkeypatch, dtype, tolerance, softcap, bounded):
    monkeypatch.setattr(logprobs, "CPU_LOGITS", 4 * VOCAB)  # blocks of 4, 4 and 3 tokens
    *inputs, targets, coefficients = tensors(dtype)
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    likeliest = (exact[0] @ exact[1].T + exact[2]).argmax(dim=-1)
    targets[::3] = likeliest[::3]
    expected, expected_logps = oracle(*exact, targets, coefficients.double(), softcap, bounded)
    (3 * expected).backward()
    actual = [tensor.clone().requires_grad_() for tensor in inputs]
    value, logps, is_top1 = SignedSum.apply(*actual, targets, coefficients, softcap, unlikelihood if bounded else None)
    (3 * value).backward()
    assert logps.dtype == torch.float32 and not logps.requires_grad
    assert is_top1.tolist() == (targets == likeliest).tolist()
    torch.testing.assert_close(logps.double(), expected_logps, rtol=tolerance, atol=20 * tolerance)
    torch.testing.assert_close(value.double(), expected, rtol=5 * tolerance, atol=0)
    for tensor, reference in zip(actual, exact, strict=True):
        error = (tensor.grad.double() - reference.grad).norm() / reference.grad.norm()
        assert error < tolerance


def test_a_bounded_term_pushes_a_certain_token_with_all_its_weight():
    """Logits 30 and 0, 0: p = 1 / (1 + 2 e^-30) rounds to 1. The gradient is p for it and -p / 2 for the others."""
    logits = torch.tensor([[30.0], [0.0], [0.0]]).requires_grad_()  # of one hidden unit that is 1
    certain = SignedSum.apply(torch.ones(1, 1), logits, None, torch.tensor([0]), torch.ones(1), None, unlikelihood)
    certain[0].backward()
    assert certain[0].item() == pytest.approx(30 - math.log(2), rel=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0], [-0.5], [-0.5]]))


def test_a_frozen_head_gets_no_gradient_and_zero_coefficients_give_zeros():
    hidden, weight, _, targets, coefficients = tensors(torch.float32)
    hidden.requires_grad_()
    SignedSum.apply(hidden, weight, None, targets, 0 * coefficients, None)[0].backward()
    assert weight.grad is None
    assert torch.equal(hidden.grad, torch.zeros(TOKENS, HIDDEN))


def test_a_trace_without_a_gradient_makes_none_for_the_head(model_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(model_path)
    add_scoring(model)
    made = []

    def forward(ctx, hidden, *args):
        made.append(ctx.needs_input_grad)
        return hidden, hidden, hidden

    monkeypatch.setattr(SignedSum, "forward", staticmethod(forward))
    inputs = dict(input_ids=torch.ones(1, 4, dtype=torch.long), positions=torch.arange(3), targets=torch.arange(3))
    with torch.no_grad():
        model(**inputs, coefficients=torch.ones(3).view(torch.int32))
    assert made == [(False,) * len(made[0])]
