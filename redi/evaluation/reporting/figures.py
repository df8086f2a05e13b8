"""The figures: bars of pass@1, panels of training runs, and the charts of the report's page."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
HELD_OUT = ", held out"  # ends the label of a run's second line
CHOSEN, REJECTED = "chosen LogPS (nats per token)", "rejected LogPS (nats per token)"
MARGIN = "margin: chosen - rejected LogPS"

Points = list[tuple[int, float]]
Panels = dict[str, dict[str, Points]]  # title -> label of the run -> points

WIDTH, HEIGHT = 255, 158  # of the page's charts, in points
NUM_BINS = 30
# The page's charts are drawn in these placeholders, which `_svg` replaces by variables of the style sheet, so that its
# themes apply.
TEXT, GRID = "#000001", "#000002"
LINES = [f"#0000{number}0" for number in range(1, 8)]
_PAGE_STYLE = {"'DejaVu Sans'": "inherit", TEXT: "var(--soft)", GRID: "var(--line)"}
_PAGE_STYLE |= {color: f"var(--c{number})" for number, color in enumerate(LINES)}
_RC = {"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "axes.edgecolor": "none"}
_RC |= {"axes.autolimit_mode": "round_numbers", "axes.xmargin": 0, "axes.ymargin": 0, "xtick.major.pad": 6}
_RC |= {"grid.color": GRID, "grid.linewidth": 0.75, "xtick.major.size": 0, "ytick.major.size": 0}
_RC |= {"font.family": "DejaVu Sans", "font.size": 8.25, "svg.fonttype": "none"}  # text stays text
_RC |= dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
_RC |= {"axes.prop_cycle": cycler(color=LINES), "patch.linewidth": 1.35}


def plot_pass_at_1(summary: dict[str, Any], path: Path) -> None:
    """Draws bars of pass@1 with their values and standard errors, grouped by benchmark, to a PNG."""
    rows, benchmarks = summary["rows"], list(summary["rows"][0]["benchmarks"])
    if len(benchmarks) == 1:  # the bars carry the models' names, so no legend is needed
        groups, labels = {row["name"]: [row["benchmarks"][benchmarks[0]]] for row in rows}, [None]
    else:
        groups = {name: [row["benchmarks"][name] for row in rows] for name in benchmarks}
        groups["Avg"], labels = [row["average"] for row in rows], [row["name"] for row in rows]
    width = 0.8 / len(labels)
    figure = Figure(figsize=(min(16, max(4.5, 1.6 + 0.75 * len(groups) * len(labels))), 4), layout="constrained")
    axes = figure.subplots()
    for index, label in enumerate(labels):
        heights, errors = ([100 * cells[index][key] for cells in groups.values()] for key in ("pass_at_1", "sem"))
        centers = np.arange(len(groups)) + (index - (len(labels) - 1) / 2) * width
        style = {"capsize": 3, "color": COLORS[index % len(COLORS)], "label": label}
        bars = axes.bar(centers, heights, 0.92 * width, yerr=errors, **style)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    if len(benchmarks) == 1:
        axes.set_title(benchmarks[0], fontsize=10)
    else:
        figure.legend(loc="outside upper center", ncols=min(4, len(rows)), frameon=False)
    rotation, alignment = (30, "right") if len(groups) > 6 else (0, "center")
    axes.set_xticks(range(len(groups)), groups, rotation=rotation, ha=alignment)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    top = max(100 * (cell["pass_at_1"] + cell["sem"]) for cells in groups.values() for cell in cells)
    axes.set_ylim(0, max(5, 1.08 * top))
    axes.set_ylabel("pass@1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="0.9")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)


def plot_panels(panels: Panels, path: Path, columns: int) -> None:
    """Draws panels in rows of `columns` to a PNG, one line per run (few points get markers), with one legend.

    Held-out values get a thin line in the style of their run.
    """
    fullest = max(panels, key=lambda title: len(panels[title]))
    labels = list(panels[fullest])
    num_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * num_rows + 0.3), layout="constrained")
    grid = figure.subplots(num_rows, columns, squeeze=False)
    last = 1.02 * max(step for lines in panels.values() for line in lines.values() for step, _ in line)
    axes = dict(zip(panels, grid.flat, strict=False))
    if CHOSEN in axes:
        axes[CHOSEN].sharey(axes[REJECTED])  # so the two can be compared by eye
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    for title, axis in axes.items():
        axis.set_prop_cycle(cycler(linestyle=["-", "--", ":"]) * cycler(color=COLORS))
        drawn = {}
        for label, points in panels[title].items():
            style = {"linewidth": 1.6, "marker": "o" if len(points) <= 30 else None, "markersize": 3}
            if run := drawn.get(label.removesuffix(HELD_OUT)):
                style |= {"linewidth": 0.8, "color": run.get_color(), "linestyle": run.get_linestyle()}
            (drawn[label],) = axis.plot(*np.reshape(points, (-1, 2)).T, label=label, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, last)
        if title not in (CHOSEN, REJECTED, MARGIN):
            axis.set_ylim(0, 1.06 * max((value for line in panels[title].values() for _, value in line), default=1))
    if len(labels) > 1:
        handles = axes[fullest].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    else:
        figure.suptitle(labels[0], fontsize=11)
    figure.savefig(path, dpi=150)


@matplotlib.rc_context(_RC)
def pass_at_k_chart(curves: Sequence[list[float]]) -> str:
    """An `<svg>` of pass@k in percent for k = 1, 2, ..., one line per curve."""
    axes, largest = _page_axes("k"), max(map(len, curves))
    for curve in curves:
        # A single point is a line of no length with round caps: markers would need ids.
        ks, values, width = (range(1, len(curve) + 1), curve, 1.35) if len(curve) > 1 else ([1, 1], curve * 2, 5)
        axes.plot(ks, values, linewidth=width, solid_capstyle="round", clip_on=False)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(2, largest))
    # The last k ends the axis; a power of two just below it would touch its label.
    ticks = [power for power in (2**exponent for exponent in range(20)) if power < largest / 1.3] + [largest]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    return _svg(axes)


@matplotlib.rc_context(_RC)
def length_chart(lengths: Sequence[np.ndarray]) -> str:
    """An `<svg>` of histograms of response lengths in percent of the responses, one outline per array."""
    axes = _page_axes("tokens")
    edges = np.linspace(0, max(1, max(values.max() for values in lengths)), NUM_BINS + 1)
    for values in lengths:
        axes.stairs(100 * np.histogram(values, edges)[0] / values.size, edges, clip_on=False)
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}")
    return _svg(axes)


def _page_axes(x_label: str) -> Axes:
    axes = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained").subplots()
    axes.set_xlabel(x_label)
    return axes


def _svg(axes: Axes) -> str:
    """The drawing alone: without namespaces, ids and clip paths, which could clash with others on the page."""
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
