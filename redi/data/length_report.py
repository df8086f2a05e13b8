"""What the lengths of a dataset look like: tables of percentiles, what limits drop, and a picture."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from redi.data.length_study import Lengths
from redi.data.lengths import PROMPT_TOO_LONG, RESPONSE_TOO_LONG

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
# Okabe and Ito's, told apart by colour-blind eyes; chosen and rejected as in the plots of training
COLORS = {"prompt": "#56B4E9", "chosen": "#0072B2", "rejected": "#D55E00", "response": "#0072B2", "total": "#009E73"}
BINS = 40


def summarise(lengths: Lengths, max_prompt: int | None = None, max_response: int | None = None) -> dict[str, Any]:
    """The percentiles of all rows and of each source, and what inclusive limits would drop, ready for JSON.

    A percentile is a length that occurs: the smallest that at least so many percent of the rows do not exceed.

    Args:
        lengths: of at least one row.
        max_prompt: the longest prompt kept; None for no limit.
        max_response: the longest response kept, chosen and rejected alike.
    """
    groups = lengths.by_source()
    summary = {"unit": lengths.unit, "rows": len(lengths.source_of), "lengths": _percentiles(lengths)}
    summary["sources"] = {
        name: {"rows": len(group.source_of), "lengths": _percentiles(group)} for name, group in groups.items()
    }
    if max_prompt is not None or max_response is not None:
        limits = {"max_prompt": max_prompt, "max_response": max_response}
        dropped = {name: _dropped(group, max_prompt, max_response) for name, group in groups.items()}
        summary["limits"] = {**limits, "dropped": _dropped(lengths, max_prompt, max_response), "by_source": dropped}
    return summary


def _percentiles(lengths: Lengths) -> dict[str, dict[str, float]]:
    table = {}
    for name, values in lengths.columns.items():
        found = np.percentile(values, PERCENTILES, method="inverted_cdf")
        table[name] = {"min": int(values.min())}
        table[name] |= {f"p{percent}": int(value) for percent, value in zip(PERCENTILES, found, strict=True)}
        table[name] |= {"max": int(values.max()), "mean": round(float(values.mean()), 1)}
    return table


def _dropped(lengths: Lengths, max_prompt: int | None, max_response: int | None) -> dict[str, int]:
    """Counted as `redi.data.lengths.filter_by_length` does: a row too long in both is counted by its prompt."""
    longest = np.max([lengths.columns[name] for name in lengths.responses], axis=0)
    prompt_too_long = lengths.columns["prompt"] > (np.inf if max_prompt is None else max_prompt)
    response_too_long = longest > (np.inf if max_response is None else max_response)
    return {
        PROMPT_TOO_LONG: int(prompt_too_long.sum()),
        RESPONSE_TOO_LONG: int((response_too_long & ~prompt_too_long).sum()),
        "kept": int((~prompt_too_long & ~response_too_long).sum()),
    }


def tables(summary: dict[str, Any]) -> str:
    """The tables of `summarise` in Markdown."""
    unit, columns = summary["unit"], ["min", *(f"p{percent}" for percent in PERCENTILES), "max", "mean"]
    rows = [[name, *(found[column] for column in columns)] for name, found in summary["lengths"].items()]
    parts = [f"Lengths of {summary['rows']:,} rows, in {unit}:", markdown([unit, *columns], rows)]

    shown = [f"{name} {column}" for name in summary["lengths"] for column in ("p50", "p95")]
    rows = [
        [
            source,
            group["rows"],
            *(group["lengths"][name][column] for name in group["lengths"] for column in ("p50", "p95")),
        ]
        for source, group in summary["sources"].items()
    ]
    parts += ["By source:", markdown(["source", "rows", *shown], rows)]
    if "limits" in summary:
        limits = summary["limits"]
        given = {role: limits[f"max_{role}"] for role in ("prompt", "response") if limits[f"max_{role}"] is not None}
        named = " and ".join(f"of {limit:,} {unit} for a {role}" for role, limit in given.items())
        rows = [[source, *dropped.values()] for source, dropped in limits["by_source"].items()]
        rows.append(["all", *limits["dropped"].values()])
        parts += [f"With limits {named}:", markdown(["source", *limits["dropped"]], rows)]
    return "\n\n".join(parts) + "\n"


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table, readable as text too: the first column to the left, numbers to the right."""
    cells = [
        header,
        *([f"{cell:,}" if isinstance(cell, int | float) else _escaped(cell) for cell in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _escaped(text: str) -> str:
    shown = text if text.isprintable() and text == text.strip() else json.dumps(text)
    return shown.replace("|", "\\|")


def plot(lengths: Lengths, path: Path, max_prompt: int | None = None, max_response: int | None = None) -> None:
    """The distributions of prompts, responses and totals, and of the responses by source, to a PNG."""
    figure, ((prompts, responses), (totals, sources)) = plt.subplots(2, 2, figsize=(11, 7.2))
    # A layout engine would take longer than all the drawing.
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.07, top=0.95, wspace=0.4, hspace=0.3)
    _histogram(prompts, lengths, ["prompt"], max_prompt)
    _histogram(responses, lengths, lengths.responses, max_response)
    _histogram(totals, lengths, ["total"], None)
    _boxes(sources, lengths, max_response)
    totals.set_title("prompt + " + " + ".join(lengths.responses), fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _histogram(axes: Axes, lengths: Lengths, names: list[str], limit: int | None) -> None:
    """Rows by length on a logarithmic axis, all of `names` in one frame, with medians and the limit."""
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


def _boxes(axes: Axes, lengths: Lengths, limit: int | None) -> None:
    """Of each source, the middle half of its responses as a box, the middle 90 % as a line, the median as a dot."""
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
    labels = [f"{_cut(name)} ({len(group.source_of):,})" for name, group in groups.items()]
    axes.set_yticks(range(len(groups)), labels, parse_math=False)
    margin = max(0.5, 2 - len(groups) / 2)  # few sources do not fill the frame
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
