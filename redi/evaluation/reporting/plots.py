"""The bar chart of pass@1."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def plot_pass_at_1(summary: dict[str, Any], path: Path) -> None:
    """Draws bars of pass@1 with their standard errors, grouped by benchmark, to a PNG."""
    rows = summary["rows"]
    names = [row["name"] for row in rows]
    groups = {name: [row["benchmarks"][name] for row in rows] for name in rows[0]["benchmarks"]}
    if len(groups) > 1:
        groups["Avg"] = [row["average"] for row in rows]
    inches = min(16, max(4.5, 1.6 + 0.75 * len(groups) * len(rows)))
    figure, axes = plt.subplots(figsize=(inches, 4), layout="constrained")
    width = 0.8 / len(rows)
    offsets = [(index - (len(rows) - 1) / 2) * width for index in range(len(rows))]
    for index, (name, offset) in enumerate(zip(names, offsets, strict=True)):
        color = COLORS[0 if len(groups) == 1 else index % len(COLORS)]
        centers = [group + offset for group in range(len(groups))]
        _bars(axes, centers, [cells[index] for cells in groups.values()], 0.92 * width, color=color, label=name)
    if len(groups) == 1:  # the bars carry the models' names, so no legend is needed
        _label(axes, offsets, names)
        axes.set_title(next(iter(groups)), fontsize=10)
        axes.set_xlim(-0.45, 0.45)
    else:
        _label(axes, range(len(groups)), list(groups))
        figure.legend(loc="outside upper center", ncols=min(4, len(rows)), frameon=False)
        axes.set_xlim(-0.6, len(groups) - 0.4)
    top = max(100 * (cell["pass_at_1"] + cell["sem"]) for cells in groups.values() for cell in cells)
    axes.set_ylim(0, max(5, 1.08 * top))
    axes.set_ylabel("pass@1 (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="0.9")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(axes: Axes, centers: list[float], cells: list[dict[str, float]], width: float, **style: Any) -> None:
    """Draws one model's bars, each with its value on top."""
    heights = [100 * cell["pass_at_1"] for cell in cells]
    errors = [100 * cell["sem"] for cell in cells]
    axes.bar(centers, heights, width, yerr=errors, capsize=3, **style)
    for center, height, error in zip(centers, heights, errors, strict=True):
        place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        axes.annotate(f"{height:.1f}", (center, height + error), **place)


def _label(axes: Axes, ticks: Any, labels: list[str]) -> None:
    rotated = len(labels) > 6
    axes.set_xticks(ticks, labels, rotation=30 if rotated else 0, ha="right" if rotated else "center")
