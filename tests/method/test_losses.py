"""The objectives against arithmetic by hand."""

import math

import torch

from redi.losses import redi_loss, simpo_loss

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


def test_simpo_loss_by_hand():
    # margins beta * (r_w - r_l) - gamma = 2 * 0 - 1 = -1 and 2 * (-2 + 3) - 1 = 1; the loss is log(1 + exp(-margin))
    expected = torch.tensor([math.log(1 + math.e), math.log(1 + 1 / math.e)])
    torch.testing.assert_close(simpo_loss(*PAIRS, beta=2.0, gamma=1.0), expected)


def test_symmetric_objective_is_the_limit_of_simpo_for_small_beta():
    # d/dbeta at beta = 0, gamma = 0: -log sigmoid(beta m) = log 2 - beta m / 2 + O(beta^2)
    beta = 1e-3
    slope = (simpo_loss(*(x.double() for x in PAIRS), beta=beta, gamma=0.0) - math.log(2)) / (beta / 2)
    torch.testing.assert_close(slope, redi_loss(*PAIRS, alpha=1.0).double(), atol=1e-3, rtol=0)
