"""What the lengths of a dataset look like: tables of percentiles, and what limits drop."""

import json
from typing import Any

import numpy as np

from redi.data.lengths.length_filter import PROMPT_TOO_LONG, RESPONSE_TOO_LONG
from redi.data.lengths.measure import Lengths

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


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
    """Counted as `length_filter.filter_by_length` does: a row too long in both is counted by its prompt."""
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
