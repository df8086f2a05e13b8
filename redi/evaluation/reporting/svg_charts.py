"""The report page's charts: matplotlib's SVG, with colours from the page's style sheet so that its themes apply."""

import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, HEIGHT = 255, 158  # points
NUM_BINS = 30
# matplotlib draws in these placeholders, and `_svg` replaces them by variables of the style sheet.
TEXT, GRID = "#000001", "#000002"
LINES = [f"#0000{number}0" for number in range(1, 8)]
_PAGE_STYLE = {"'DejaVu Sans'": "inherit", TEXT: "var(--soft)", GRID: "var(--line)"}
_PAGE_STYLE |= {color: f"var(--c{number})" for number, color in enumerate(LINES)}
_RC = {
    "axes.autolimit_mode": "round_numbers",
    "axes.axisbelow": True,
    "axes.edgecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": TEXT,
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "font.family": "DejaVu Sans",
    "font.size": 8.25,
    "grid.color": GRID,
    "grid.linewidth": 0.75,
    "svg.fonttype": "none",  # text stays text
    "xtick.color": TEXT,
    "xtick.major.pad": 6,
    "xtick.major.size": 0,
    "ytick.color": TEXT,
    "ytick.major.size": 0,
}


def pass_at_k_chart(curves: Sequence[list[float]]) -> str:
    """An `<svg>` of pass@k in percent for k = 1, 2, ..., one line per curve."""
    with matplotlib.rc_context(_RC):
        axes = _axes()
        largest = max(map(len, curves))
        for number, curve in enumerate(curves):
            # A single point is a line of no length with round caps: markers would need ids.
            ks, values, width = (range(1, len(curve) + 1), curve, 1.35) if len(curve) > 1 else ([1, 1], curve * 2, 5)
            style = {"linewidth": width, "solid_capstyle": "round", "clip_on": False}
            axes.plot(ks, values, color=_color(number), **style)
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, max(2, largest))
        # The last k ends the axis; a power of two just below it would touch its label.
        ticks = [power for power in (2**exponent for exponent in range(20)) if power < largest / 1.3] + [largest]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        return _svg(axes, "k")


def length_chart(lengths: Sequence[np.ndarray]) -> str:
    """An `<svg>` of histograms of response lengths in percent of the responses, one outline per array."""
    edges = np.linspace(0, max(1, max(values.max() for values in lengths)), NUM_BINS + 1)
    with matplotlib.rc_context(_RC):
        axes = _axes()
        for number, values in enumerate(lengths):
            counts, _ = np.histogram(values, edges)
            axes.stairs(100 * counts / values.size, edges, color=_color(number), linewidth=1.35, clip_on=False)
        axes.xaxis.set_major_formatter(lambda tick, _: f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}")
        return _svg(axes, "tokens")


def _axes() -> Axes:
    return Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained").subplots()


def _color(number: int) -> str:
    return LINES[number % len(LINES)]


def _svg(axes: Axes, x_label: str) -> str:
    """The drawing alone: without namespaces, ids and clip paths, which could clash with others on the page."""
    axes.set_xlabel(x_label)
    axes.yaxis.get_major_locator().set_params(nbins=5)
    for line in axes.get_ygridlines():
        line.set_clip_on(False)
    file = io.StringIO()
    axes.figure.savefig(file, format="svg", transparent=True)
    drawing = re.search(r'<g id="figure_1">.*</g>', file.getvalue(), re.DOTALL)[0]
    drawing = re.sub(r' id="[^"]*"', "", drawing)
    for placeholder, style in _PAGE_STYLE.items():
        drawing = drawing.replace(placeholder, style)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{drawing}</svg>'
