"""Plots the lengths of a dataset. A separate module, since importing matplotlib takes half a second."""

from pathlib import Path

import matplotlib
import numpy as np

from redi.data.lengths.dataset_lengths import DatasetLengths

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

# Okabe and Ito's palette for colour-blind readers; chosen and rejected as in the plots of training
COLORS = {"prompt": "#56B4E9", "chosen": "#0072B2", "rejected": "#D55E00", "response": "#0072B2", "total": "#009E73"}
BINS = 40


def plot_lengths(
    lengths: DatasetLengths, path: Path, max_prompt: int | None = None, max_response: int | None = None
) -> None:
    """Writes a PNG with the distributions of prompts, responses and totals, and of the responses by source."""
    figure, ((prompts, responses), (totals, sources)) = plt.subplots(2, 2, figsize=(11, 7.2))
    # A layout engine would take longer than the drawing itself.
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.07, top=0.95, wspace=0.4, hspace=0.3)
    _histogram(prompts, lengths, ["prompt"], max_prompt)
    _histogram(responses, lengths, lengths.responses, max_response)
    _histogram(totals, lengths, ["total"], None)
    _boxes(sources, lengths, max_response)
    totals.set_title("prompt + " + " + ".join(lengths.responses), fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _histogram(axes: Axes, lengths: DatasetLengths, names: list[str], limit: int | None) -> None:
    """Histograms of `names` in one frame, on a logarithmic axis, with medians and the limit."""
    ends = [(max(1, lengths.columns[name].min()), max(1, lengths.columns[name].max())) for name in names]
    bins = np.geomspace(0.9 * min(end[0] for end in ends), 1.1 * max(end[1] for end in ends), BINS + 1)
    for name in names:
        values = np.maximum(lengths.columns[name], 1)
        label = f"{name} (median {np.percentile(values, 50, method='inverted_cdf'):,})"
        axes.hist(values, bins, histtype="stepfilled", alpha=0.45, color=COLORS[name], label=label)
        axes.hist(values, bins, histtype="step", color=COLORS[name])
    if limit is not None:
        axes.axvline(limit, color="0.2", linestyle="--", label=f"limit {limit:,}")
    axes.set_xscale("log")
    axes.set_xlabel(lengths.unit)
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_title(" and ".join(names), fontsize=10)
    axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
    _finish(axes)


def _boxes(axes: Axes, lengths: DatasetLengths, limit: int | None) -> None:
    """The responses of each source: the middle half as a box, the middle 90 % as a line, the median as a dot."""
    groups = lengths.by_source()
    height = 0.7 / len(lengths.responses)
    for place, group in enumerate(groups.values()):
        for i, name in enumerate(lengths.responses):
            found = np.percentile(np.maximum(group.columns[name], 1), [5, 25, 50, 75, 95], method="inverted_cdf")
            y = place + (i - (len(lengths.responses) - 1) / 2) * height
            axes.plot([found[0], found[4]], [y, y], color=COLORS[name], linewidth=1)
            axes.barh(y, found[3] - found[1], 0.8 * height, left=found[1], color=COLORS[name], alpha=0.6)
            axes.plot(found[2], y, "o", color="black", markersize=3)
    if limit is not None:
        axes.axvline(limit, color="0.2", linestyle="--")
    labels = [f"{_cut(name)} ({len(group.sources):,})" for name, group in groups.items()]
    axes.set_yticks(range(len(groups)), labels, parse_math=False)
    margin = max(0.5, 2 - len(groups) / 2)  # keeps the boxes of few sources thin
    axes.set_ylim(len(groups) - 1 + margin, -margin)  # the largest on top
    axes.set_xscale("log")
    axes.set_xlabel(lengths.unit)
    axes.set_title("responses by source: median, middle 50 and 90 %", fontsize=10)
    _finish(axes)


def _cut(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:13]}..."


def _finish(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
