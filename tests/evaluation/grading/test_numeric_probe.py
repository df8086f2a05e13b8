"""The value of an expression at one point, and which expressions have none."""

import pytest

from redi.evaluation.grading.numeric_probe import differ, value


@pytest.mark.parametrize(
    "text",
    [
        r"\sin 2x",
        "1/2x",
        r"\log 2",
        r"1 \frac{1}{2}",
        "x,y",
        "a=b",
        "(x",
        r"\sin^{-1} x",
        "(-3)!",
        "9^{9^{9}}",
        "(" * 99,
    ],
)
def test_what_has_two_readings_or_none_has_no_value(text):
    assert value(text) is None


def test_values():
    assert value(r"-\frac{1}{2}^{2}") == pytest.approx(-0.25)
    assert value(r"2\sqrt{3}(1+2)!") == pytest.approx(12 * 3**0.5)
    assert value(r"\sqrt[3]{8} \pi") == pytest.approx(2 * 3.141592653589793)
    assert value("(1+i)^{2}") == pytest.approx(2j)
    assert value(r"\binom{5}{2} - \lfloor 7/2 \rfloor") == pytest.approx(7)
    assert value(r"\sin^{2}(3) + \cos^{2}(3)") == pytest.approx(1)
    assert not differ(r"\binom{2n}{n}", r"\frac{(2n)!}{n!n!}")
    assert not differ("x^{2}-x-2", "(x+1)(x-2)")
    assert not differ(r"\frac{1}{x+1}", r"\frac{x-1}{x^{2}-1}")
    assert differ("x", "X") and differ("x+1", "x+2") and differ("x_{1}", "x_{2}")
    assert not differ("1.00000000001", "1")  # too close to tell apart here
