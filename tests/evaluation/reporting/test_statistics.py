"""Pass@1, pass@k, their errors and the bootstrap, against numbers worked by hand."""

import numpy as np
import pytest

from redi.evaluation.reporting.statistics import mean_of_benchmarks, paired_difference, pass_at_1, pass_at_k

# 5 problems x 4 samples: P = .6 .4 .6 .6, mean .55, population standard deviation .086603, over sqrt(4)
EXAMPLE = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]])


def test_pass_at_1_and_its_error():
    assert pass_at_1(EXAMPLE) == pytest.approx((0.55, 0.043301), abs=1e-6)


def test_one_sample_has_no_sampling_error():
    assert pass_at_1(np.array([[1], [0]])) == (0.5, 0.0)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.1875), (2, 0.35), (4, 0.607143), (8, 0.9), (16, 1.0)])
def test_pass_at_k_of_3_right_in_16(k, expected):
    correct = np.array([[1] * 3 + [0] * 13])
    assert pass_at_k(correct, k) == pytest.approx(expected, abs=1e-6)


def test_pass_at_n_is_the_share_of_problems_with_any_correct_sample():
    assert pass_at_k(EXAMPLE, 4) == pytest.approx(0.8)
    assert pass_at_k(EXAMPLE, 1) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples"):
        pass_at_k(EXAMPLE, 5)


def test_mean_of_benchmarks():
    # errors .03 and .04: sqrt(.0009 + .0016) / 2 = .025
    assert mean_of_benchmarks([(0.2, 0.03), (0.6, 0.04)]) == pytest.approx((0.4, 0.025))


def interval(correct: np.ndarray) -> tuple[float, float]:
    _, low, high = paired_difference([correct], [np.zeros_like(correct)]).values()
    return low, high


def test_interval_counts_the_noise_of_problems_and_of_samples():
    """400 problems, half always correct: only problems vary, .025. One problem, half of 100 correct: .05."""
    low, high = interval(np.repeat([[1] * 4, [0] * 4], 200, axis=0))
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.004)
    assert interval(np.array([[1, 0] * 50])) == pytest.approx((0.402, 0.598), abs=0.015)
    mixed = np.repeat([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]], 25, axis=0)
    # between problems: mean of (p - 1/2)^2 = 1/8; within: mean of p (1 - p) / 4 = 1/32; together sqrt(5/32 / 100)
    low, high = interval(mixed)
    assert high - low == pytest.approx(2 * 1.96 * (5 / 32 / 100) ** 0.5, rel=0.04)


def test_equal_inputs_differ_by_nothing():
    assert paired_difference([EXAMPLE], [EXAMPLE]) == {"mean": 0, "low": 0, "high": 0}


def test_a_gain_on_every_sample_is_certain():
    assert paired_difference([np.ones((4, 3))], [np.zeros((4, 3))]) == {"mean": 1, "low": 1, "high": 1}


def test_bootstrap_spread_matches_theory():
    """400 problems; ours always correct on a half, baseline never: the difference is Binomial(400, 1/2) / 400.

    Its standard deviation is .025, so 95 % lies within .5 -+ 1.96 * .025 = .049.
    """
    ours = np.repeat([[1] * 4, [0] * 4], 200, axis=0)
    mean, low, high = paired_difference([ours], [np.zeros_like(ours)]).values()
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.004)


def test_bootstrap_resamples_samples_too():
    """One problem, half of 100 samples correct: only the second level varies, with standard deviation .05."""
    ours = np.array([[1, 0] * 50])
    _, low, high = paired_difference([ours], [np.zeros_like(ours)]).values()
    assert (low, high) == pytest.approx((0.402, 0.598), abs=0.015)


def test_pairing_removes_what_problems_share():
    """Equal but for one problem in 100: the interval is narrow although the problems differ widely."""
    baseline = np.repeat([[1] * 4, [0] * 4], 50, axis=0)
    ours = baseline.copy()
    ours[50] = 1
    mean, low, high = paired_difference([ours], [baseline]).values()
    assert mean == pytest.approx(0.01)
    assert low == 0 and high <= 0.03


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="against"):
        paired_difference([EXAMPLE], [EXAMPLE[:, :2]])
