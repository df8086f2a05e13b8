"""The page's charts as drawings: their points, ticks and colours."""

import re

import numpy as np
import pytest

from redi.evaluation.reporting.figures import length_chart, pass_at_k_chart


def lines_of(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each coloured line, by the style sheet's variable."""
    found = re.findall(r'<path d="([^"]*)" style="[^"]*stroke: var\((--c\d)\)', svg)
    return {name: [tuple(map(float, p)) for p in re.findall(r"[ML] (\S+) (\S+)", path)] for path, name in found}


def labels_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_pass_at_k_has_a_logarithmic_axis_that_ends_at_n():
    svg = pass_at_k_chart([[50.0, 60, 65, 70, 75, 80], [40.0] * 6])
    assert labels_of(svg) == ["1", "2", "4", "6", "k", "40", "50", "60", "70", "80"]
    lines = lines_of(svg)
    assert list(lines) == ["--c0", "--c1"]
    xs, ys = zip(*lines["--c0"], strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[3] - xs[1], abs=1e-3)  # 1, 2, 4
    assert ys[0] - ys[1] == pytest.approx(2 * (ys[1] - ys[2]), abs=1e-3) and ys[5] < ys[0]  # y grows downwards


def test_one_sample_is_a_dot():
    assert len(set(lines_of(pass_at_k_chart([[50.0], [60.0]]))["--c1"])) == 1


def test_lengths_are_shares_of_the_responses():
    svg = length_chart([np.array([0, 1, 9, 29_999, 30_000]), np.array([[0, 30_000]])])
    assert {"0", "10k", "20k", "30k", "tokens"} <= set(labels_of(svg))
    heights = {name: [y for _, y in points] for name, points in lines_of(svg).items()}
    base = max(heights["--c0"])
    first, last = base - min(heights["--c0"]), base - heights["--c0"][-2]
    assert first == pytest.approx(1.5 * last, abs=1e-3)  # 3 of 5 and 2 of 5
    assert base - min(heights["--c1"]) == pytest.approx(first * 50 / 60, abs=1e-3)


def test_nothing_in_a_chart_can_clash_with_the_page():
    svg = pass_at_k_chart([[float(k) for k in range(number, number + 4)] for number in range(8)])
    assert not re.search(r"\bid=|href|url\(|https?:|#[0-9a-f]{6}|<style", svg)
    assert len(re.findall(r"var\(--c0\)", svg)) == 2  # seven colours, then again
