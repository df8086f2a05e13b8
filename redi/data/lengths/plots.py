"""Plots the lengths of a dataset. A separate module, since importing matplotlib takes half a second."""

from pathlib import Path

import matplotlib
import numpy as np

from redi.data.lengths.dataset_lengths import DatasetLengths

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
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
    _histogram(prompts, lengths, ["prompt"], "prompt", max_prompt)
    _histogram(responses, lengths, lengths.responses, " and ".join(lengths.responses), max_response)
    _histogram(totals, lengths, ["total"], " + ".join(["prompt", *lengths.responses]), None)
    _boxes(sources, lengths, max_response)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _histogram(axes: Axes, lengths: DatasetLengths, names: list[str], title: str, limit: int | None) -> None:
    columns = {name: np.maximum(lengths.columns[name], 1) for name in names}
    every = np.concatenate(list(columns.values()))
    bins = np.geomspace(0.9 * every.min(), 1.1 * every.max(), BINS + 1)
    for name, values in columns.items():
        label = f"{name} (median {np.percentile(values, 50, method='inverted_cdf'):,})"
        style = {"facecolor": to_rgba(COLORS[name], 0.45), "edgecolor": COLORS[name], "label": label}
        axes.hist(values, bins, histtype="stepfilled", **style)
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    _finish(axes, title, lengths.unit, limit)
    axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)


def _boxes(axes: Axes, lengths: DatasetLengths, limit: int | None) -> None:
    groups = lengths.by_source()
    height = 0.7 / len(lengths.responses)
    for i, name in enumerate(lengths.responses):
        values = [np.maximum(group.columns[name], 1) for group in groups.values()]
        style = {"boxprops": {"facecolor": COLORS[name], "alpha": 0.6}, "medianprops": {"color": "black"}}
        style |= {"widths": 0.8 * height, "orientation": "horizontal", "patch_artist": True, "showfliers": False}
        places = np.arange(len(groups)) + (i - (len(lengths.responses) - 1) / 2) * height
        axes.boxplot(values, positions=places, whis=(5, 95), manage_ticks=False, **style)
    shown = [f"{name if len(name) <= 16 else f'{name[:13]}...'} ({len(groups[name].sources):,})" for name in groups]
    axes.set_yticks(range(len(groups)), shown, parse_math=False)
    margin = max(0.5, 2 - len(groups) / 2)  # keeps the boxes of few sources thin
    axes.set_ylim(len(groups) - 1 + margin, -margin)  # the largest on top
    _finish(axes, "responses by source: median, middle 50 and 90 %", lengths.unit, limit)


def _finish(axes: Axes, title: str, unit: str, limit: int | None) -> None:
    if limit is not None:
        axes.axvline(limit, color="0.2", linestyle="--", label=f"limit {limit:,}")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", color="0.9")
    axes.set_axisbelow(True)
