"""The report's plot."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Told apart by colour-blind eyes (Okabe and Ito)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def plot_pass_at_1(table: dict[str, Any], path: Path) -> None:
    """Bars of pass@1 with its standard error, grouped by benchmark, to a PNG."""
    rows = table["rows"]
    benchmarks = list(rows[0]["benchmarks"])
    groups = [(name, [row["benchmarks"][name] for row in rows]) for name in benchmarks]
    if len(benchmarks) > 1:
        groups.append(("Avg", [row["average"] for row in rows]))
    num_bars = len(groups) * len(rows)
    figure, axes = plt.subplots(figsize=(min(16, max(4.5, 1.6 + 0.75 * num_bars)), 4), layout="constrained")
    width = 0.8 / len(rows)
    top = max(100 * (cell["pass_at_1"] + cell["sem"]) for _, cells in groups for cell in cells)
    for index, row in enumerate(rows):
        centers = [group + (index - (len(rows) - 1) / 2) * width for group in range(len(groups))]
        heights = [100 * cells[index]["pass_at_1"] for _, cells in groups]
        errors = [100 * cells[index]["sem"] for _, cells in groups]
        color = COLORS[0 if len(groups) == 1 else index % len(COLORS)]
        axes.bar(centers, heights, 0.92 * width, yerr=errors, capsize=3, color=color, label=row["name"])
        for center, height, error in zip(centers, heights, errors, strict=True):
            axes.annotate(
                f"{height:.1f}",
                (center, height + error),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    if len(groups) == 1:  # one benchmark: the bars carry their names, and no legend is needed
        ticks, labels = (
            [(index - (len(rows) - 1) / 2) * width for index in range(len(rows))],
            [r["name"] for r in rows],
        )
        axes.set_title(benchmarks[0], fontsize=10)
    else:
        ticks, labels = range(len(groups)), [name for name, _ in groups]
        figure.legend(loc="outside upper center", ncols=min(4, len(rows)), frameon=False)
    axes.set_xticks(ticks, labels, rotation=30 if len(labels) > 6 else 0, ha="right" if len(labels) > 6 else "center")
    axes.set_xlim(-0.45 if len(groups) == 1 else -0.6, len(groups) - (0.55 if len(groups) == 1 else 0.4))
    axes.set_ylabel("pass@1 (%)")
    axes.set_ylim(0, max(5, 1.08 * top))
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="0.9")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
