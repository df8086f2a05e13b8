"""The objectives against arithmetic by hand."""

import math
from types import SimpleNamespace

import mpmath
import pytest
import torch

from redi.losses import OBJECTIVES, redi_loss, simpo_loss, unlikelihood

# Two pairs. Per-token log-probabilities: chosen -6/3 = -2 and -8/4 = -2, rejected -10/5 = -2 and -6/2 = -3.
CHOSEN, CHOSEN_LENGTHS = torch.tensor([-6.0, -8.0]), torch.tensor([3, 4])
REJECTED, REJECTED_LENGTHS = torch.tensor([-10.0, -6.0]), torch.tensor([5, 2])
PAIRS = (CHOSEN, REJECTED, CHOSEN_LENGTHS, REJECTED_LENGTHS)


def test_redi_loss_by_hand():
    # 2 + 0.8 * (-2) = 0.4 and 2 + 0.8 * (-3) = -0.4
    torch.testing.assert_close(redi_loss(*PAIRS, alpha=0.8), torch.tensor([0.4, -0.4]))


def test_alpha_zero_is_length_normalised_sft():
    torch.testing.assert_close(redi_loss(*PAIRS, alpha=0.0), torch.tensor([2.0, 2.0]))


def test_alpha_one_changes_sign_when_chosen_and_rejected_swap():
    swapped = redi_loss(REJECTED, CHOSEN, REJECTED_LENGTHS, CHOSEN_LENGTHS, alpha=1.0)
    torch.testing.assert_close(redi_loss(*PAIRS, alpha=1.0), -swapped)


def test_gradient_of_each_side_is_its_weight_over_its_length():
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    redi_loss(chosen, rejected, CHOSEN_LENGTHS, REJECTED_LENGTHS, alpha=0.8).sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([-1 / 3, -1 / 4]))
    torch.testing.assert_close(rejected.grad, torch.tensor([0.8 / 5, 0.8 / 2]))


def test_chosen_weight_by_hand():
    # 0.1 * 2 + 1 * (-2) = -1.8 and 0.1 * 2 + 1 * (-3) = -2.8; without the positive term -2 and -3
    torch.testing.assert_close(redi_loss(*PAIRS, alpha=1.0, chosen_weight=0.1), torch.tensor([-1.8, -2.8]))
    torch.testing.assert_close(redi_loss(*PAIRS, alpha=1.0, chosen_weight=0.0), torch.tensor([-2.0, -3.0]))


def test_bounded_negatives_by_hand():
    # 1 - p is 3/4, 1/2 and 1/4, so -log(1 - p) is log 4/3, log 2 and log 4; its slope p / (1 - p) is 1/3, 1 and 3
    logps = torch.tensor([0.25, 0.5, 0.75]).log().requires_grad_()
    terms = unlikelihood(logps)
    torch.testing.assert_close(terms, torch.tensor([4 / 3, 2.0, 4.0]).log())
    terms.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([1 / 3, 1.0, 3.0]))
    # two chosen tokens of log p -2 and the last two of these: 2 + 0.8 * (log 2 + log 4) / 2 = 2 + 1.2 log 2
    sums = torch.tensor([-4.0]), terms.detach()[1:].sum()[None]
    loss = redi_loss(*sums, torch.tensor([2]), torch.tensor([2]), alpha=0.8)
    torch.testing.assert_close(loss, torch.tensor([2 + 1.2 * math.log(2)]))


def test_a_bounded_term_is_exact_from_impossible_to_certain_tokens():
    """1 - p from 1e-30, where p rounds to 1, to 1 - 1e-40, where 1 - p does; against 100 digits."""
    logps = (-torch.logspace(-30, 1.95, 128)).requires_grad_()
    unlikelihood(logps).sum().backward()
    with mpmath.workdps(100):
        p = [mpmath.exp(x) for x in logps.tolist()]
        terms, slopes = [float(-mpmath.log(1 - each)) for each in p], [float(each / (1 - each)) for each in p]
    assert unlikelihood(logps).tolist() == pytest.approx(terms, rel=1e-5)
    assert logps.grad.tolist() == pytest.approx(slopes, rel=1e-4)
    certain = torch.zeros(1, requires_grad=True)
    unlikelihood(certain).backward()
    assert 87 < unlikelihood(certain).item() < 88 and torch.isfinite(certain.grad).all()


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if objective.is_sum])
def test_a_sum_is_its_weights_times_logps(name):
    """The engine trains by the weights alone, and takes a positive coefficient for a negative's."""
    options = SimpleNamespace(**{option: spec.default for option, spec in OBJECTIVES[name].options.items()})
    chosen_weight, alpha = OBJECTIVES[name].weights(options)
    assert chosen_weight >= 0 and alpha >= 0
    expected = -chosen_weight * CHOSEN / CHOSEN_LENGTHS + alpha * REJECTED / REJECTED_LENGTHS
    torch.testing.assert_close(OBJECTIVES[name].loss(options)(*PAIRS), expected)


def test_simpo_loss_by_hand():
    # margins beta * (r_w - r_l) - gamma = 2 * 0 - 1 = -1 and 2 * (-2 + 3) - 1 = 1; the loss is log(1 + exp(-margin))
    expected = torch.tensor([math.log(1 + math.e), math.log(1 + 1 / math.e)])
    torch.testing.assert_close(simpo_loss(*PAIRS, beta=2.0, gamma=1.0), expected)


def test_symmetric_objective_is_the_limit_of_simpo_for_small_beta():
    # d/dbeta at beta = 0, gamma = 0: -log sigmoid(beta m) = log 2 - beta m / 2 + O(beta^2)
    beta = 1e-3
    slope = (simpo_loss(*(x.double() for x in PAIRS), beta=beta, gamma=0.0) - math.log(2)) / (beta / 2)
    torch.testing.assert_close(slope, redi_loss(*PAIRS, alpha=1.0).double(), atol=1e-3, rtol=0)
