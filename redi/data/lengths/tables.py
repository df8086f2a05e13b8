"""Summarises the lengths of a dataset: percentiles, and what limits would drop, as Markdown tables."""

from typing import Any

import numpy as np

from redi.data.lengths.dataset_lengths import DatasetLengths
from redi.data.lengths.length_filter import PROMPT_TOO_LONG, RESPONSE_TOO_LONG
from redi.runs.markdown import grid

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


def summarise(
    lengths: DatasetLengths, max_prompt: int | None = None, max_response: int | None = None
) -> dict[str, Any]:
    """The percentiles of all rows and of each source, and what inclusive limits would drop; JSON can hold it.

    A percentile is a length that occurs: the smallest one that at least that share of the rows does not exceed.

    Args:
        lengths: of at least one row.
        max_prompt: the longest prompt kept; None for no limit.
        max_response: the longest response kept, chosen and rejected alike.
    """
    groups = lengths.by_source()
    summary: dict[str, Any] = {"unit": lengths.unit, **_percentiles(lengths)}
    summary["sources"] = {name: _percentiles(group) for name, group in groups.items()}
    if max_prompt is not None or max_response is not None:
        dropped = {name: _dropped(group, max_prompt, max_response) for name, group in groups.items()}
        limits = {"max_prompt": max_prompt, "max_response": max_response}
        summary["limits"] = {**limits, "dropped": _dropped(lengths, max_prompt, max_response), "by_source": dropped}
    return summary


def _percentiles(lengths: DatasetLengths) -> dict[str, Any]:
    table = {}
    for name, values in lengths.columns.items():
        found = np.percentile(values, PERCENTILES, method="inverted_cdf").tolist()
        table[name] = {"min": int(values.min()), **dict(zip(map("p{}".format, PERCENTILES), found, strict=True))}
        table[name] |= {"max": int(values.max()), "mean": round(float(values.mean()), 1)}
    return {"rows": len(lengths.sources), "lengths": table}


def _dropped(lengths: DatasetLengths, max_prompt: int | None, max_response: int | None) -> dict[str, int]:
    """Counts drops as `length_filter.filter_by_length` does: a row too long in both is counted by its prompt."""
    longest = np.max([lengths.columns[name] for name in lengths.responses], axis=0)
    prompt_too_long = lengths.columns["prompt"] > (np.inf if max_prompt is None else max_prompt)
    response_too_long = (longest > (np.inf if max_response is None else max_response)) & ~prompt_too_long
    kept = ~prompt_too_long & ~response_too_long
    masks = {PROMPT_TOO_LONG: prompt_too_long, RESPONSE_TOO_LONG: response_too_long, "kept": kept}
    return {name: int(mask.sum()) for name, mask in masks.items()}


def length_tables(summary: dict[str, Any]) -> str:
    """A summary as Markdown tables."""
    unit, lengths = summary["unit"], summary["lengths"]
    rows = [[name, *found.values()] for name, found in lengths.items()]
    header = [unit, *next(iter(lengths.values()))]
    parts = [f"Lengths of {summary['rows']:,} rows, in {unit}:", grid(header, rows)]

    shown = [(name, column) for name in lengths for column in ("p50", "p95")]
    rows = [
        [source, group["rows"], *(group["lengths"][name][column] for name, column in shown)]
        for source, group in summary["sources"].items()
    ]
    parts += ["By source:", grid(["source", "rows", *map(" ".join, shown)], rows)]
    if "limits" in summary:
        limits = summary["limits"]
        given = {role: limits[f"max_{role}"] for role in ("prompt", "response") if limits[f"max_{role}"] is not None}
        named = " and ".join(f"of {limit:,} {unit} for a {role}" for role, limit in given.items())
        rows = [[source, *dropped.values()] for source, dropped in limits["by_source"].items()]
        rows.append(["all", *limits["dropped"].values()])
        parts += [f"With limits {named}:", grid(["source", *limits["dropped"]], rows)]
    return "\n\n".join(parts) + "\n"
