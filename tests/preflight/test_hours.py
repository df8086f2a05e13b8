"""FLOPs and utilisation, by hand."""

import pytest

from redi.preflight.hours import QWEN_1_5B, implied_utilisation, training_flops

pytest_plugins = ["helpers.preflight"]


def test_flops_and_utilisation_by_hand():
    """One trace of 1,000 tokens, 100 of them the prompt; and the REDI row of Table 5."""
    shape = QWEN_1_5B
    body, head = 28 * 46_797_824, 151_936 * 1536
    by_hand = 6 * (body * 1000 + head * 900) + 6 * 28 * 1536 * 1000**2
    assert training_flops(shape, 1000, 1000**2, 100) == by_hand
    tokens = 53_175 * (4520 + 5670)  # prompt 420, chosen 4,100, rejected 5,250
    flops = 6 * (body * tokens + head * (tokens - 53_175 * 840))
    flops += 6 * 28 * 1536 * 1.45 * 53_175 * (4520**2 + 5670**2)
    assert implied_utilisation("REDI")[0] == pytest.approx(flops)
    assert implied_utilisation("REDI")[1] == pytest.approx(flops / (8 * 312e12 * 15_000))
