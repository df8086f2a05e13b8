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
    summary = {"unit": lengths.unit, "rows": len(lengths.sources), "lengths": _percentiles(lengths)}
    summary["sources"] = {
        name: {"rows": len(group.sources), "lengths": _percentiles(group)} for name, group in groups.items()
    }
    if max_prompt is not None or max_response is not None:
        limits = {"max_prompt": max_prompt, "max_response": max_response}
        dropped = {name: _dropped(group, max_prompt, max_response) for name, group in groups.items()}
        summary["limits"] = {**limits, "dropped": _dropped(lengths, max_prompt, max_response), "by_source": dropped}
    return summary


def _percentiles(lengths: DatasetLengths) -> dict[str, dict[str, float]]:
    table = {}
    for name, values in lengths.columns.items():
        found = np.percentile(values, PERCENTILES, method="inverted_cdf")
        table[name] = {"min": int(values.min())}
        table[name] |= {f"p{percent}": int(value) for percent, value in zip(PERCENTILES, found, strict=True)}
        table[name] |= {"max": int(values.max()), "mean": round(float(values.mean()), 1)}
    return table


def _dropped(lengths: DatasetLengths, max_prompt: int | None, max_response: int | None) -> dict[str, int]:
    """Counts drops as `length_filter.filter_by_length` does: a row too long in both is counted by its prompt."""
    longest = np.max([lengths.columns[name] for name in lengths.responses], axis=0)
    prompt_too_long = lengths.columns["prompt"] > (np.inf if max_prompt is None else max_prompt)
    response_too_long = longest > (np.inf if max_response is None else max_response)
    return {
        PROMPT_TOO_LONG: int(prompt_too_long.sum()),
        RESPONSE_TOO_LONG: int((response_too_long & ~prompt_too_long).sum()),
        "kept": int((~prompt_too_long & ~response_too_long).sum()),
    }


def length_tables(summary: dict[str, Any]) -> str:
    """A summary as Markdown tables."""
    unit, columns = summary["unit"], ["min", *(f"p{percent}" for percent in PERCENTILES), "max", "mean"]
    rows = [[name, *(found[column] for column in columns)] for name, found in summary["lengths"].items()]
    parts = [f"Lengths of {summary['rows']:,} rows, in {unit}:", grid([unit, *columns], rows)]

    shown = [f"{name} {column}" for name in summary["lengths"] for column in ("p50", "p95")]
    rows = [
        [
            source,
            group["rows"],
            *(group["lengths"][name][column] for name in group["lengths"] for column in ("p50", "p95")),
        ]
        for source, group in summary["sources"].items()
    ]
    parts += ["By source:", grid(["source", "rows", *shown], rows)]
    if "limits" in summary:
        limits = summary["limits"]
        given = {role: limits[f"max_{role}"] for role in ("prompt", "response") if limits[f"max_{role}"] is not None}
        named = " and ".join(f"of {limit:,} {unit} for a {role}" for role, limit in given.items())
        rows = [[source, *dropped.values()] for source, dropped in limits["by_source"].items()]
        rows.append(["all", *limits["dropped"].values()])
        parts += [f"With limits {named}:", grid(["source", *limits["dropped"]], rows)]
    return "\n\n".join(parts) + "\n"
