"""Small line charts as SVG text, coloured by the page's style sheet (classes `s0`, `s1`, ...) so that themes apply."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 26, 36  # margins around the plot

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span low to high: multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    span = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def line_chart(
    title: str, x_label: str, y_label: str, series: Sequence[Points], log_x: bool = False, zero: bool = False
) -> str:
    """An `<svg>` with one line a series.

    Args:
        title: above the plot.
        x_label: below it.
        y_label: the unit, put into the title's line.
        series: (x, y) points of each line; colours go by the order.
        log_x: a logarithmic x axis with ticks at the powers of two and the last x.
        zero: the y axis begins at 0.
    """
    xs = [x for points in series for x, _ in points]
    ys = [y for points in series for _, y in points]
    y_ticks = ticks(0 if zero else min(ys), max(ys))
    x_ticks = _powers(max(xs)) if log_x else ticks(min(xs), max(xs), 4)
    x_scale = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log_x)
    y_scale = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, False)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(title)} <tspan class="unit">{escape(y_label)}</tspan></text>',
    ]
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = x_scale(tick)
        anchor = "end" if tick == x_ticks[-1] and not log_x else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">{_number(tick)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle" class="unit">'
        f"{escape(x_label)}</text>"
    )
    for number, points in enumerate(series):
        path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line s{number % 7}" points="{path}"/>')
        if len(points) == 1:
            (x, y) = points[0]
            parts.append(f'<circle class="dot s{number % 7}" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="3"/>')
    return "".join([*parts, "</svg>"])


def _scale(low: float, high: float, start: float, end: float, log: bool):
    if log:
        low, high = math.log(low), math.log(high)
    width = high - low or 1.0
    return lambda value: start + ((math.log(value) if log else value) - low) / width * (end - start)


def _powers(largest: float) -> list[float]:
    """1, 2, 4, ... up to `largest`, which ends the list; a power close below it would touch its label."""
    powers = [2.0**power for power in range(20) if 2**power < largest / 1.3]
    return [*powers, largest]


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def histogram(values: Sequence[float], largest: float, num_bins: int = 30) -> list[tuple[float, float]]:
    """The outline of a histogram from 0 to `largest`: (x, % of the values), two points a bin."""
    width = largest / num_bins or 1.0
    counts = [0] * num_bins
    for value in values:
        counts[min(int(value / width), num_bins - 1)] += 1
    points = []
    for number, count in enumerate(counts):
        share = 100 * count / len(values)
        points += [(number * width, share), ((number + 1) * width, share)]
    return points
