"""Writes the dataset card of an output folder: README.md as the Hub reads it, and a plot of the lengths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi.data.lengths.dataset_lengths import DatasetLengths
from redi.data.lengths.tables import length_tables, summarise
from redi.runs.files import CARD, write_text
from redi.runs.markdown import grid

PLOT = "lengths.png"

# The Hub's names for sizes: each holds fewer rows than its number.
SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
}


def write_card(
    folder: Path,
    *,
    title: str,
    summary: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | Path],
    counts: Mapping[str, Any],
    lengths: DatasetLengths | None = None,
) -> None:
    """Writes `README.md`, and `lengths.png` if lengths are given, into a folder of `train-*.parquet`.

    `load_dataset(folder)` and the Hub find the rows by the name `train-*.parquet`, and ignore everything else.

    Args:
        folder: the output folder.
        title: its heading.
        summary: what the rows are, in a sentence or two.
        config: the resolved options.
        inputs: name -> path or Hub id.
        counts: `input_rows`, `dropped` (reason -> rows) and `rows`, and optionally `sources`: name -> `input` and
            `kept` rows.
        lengths: of the rows.
    """
    parts = [
        _front_matter(counts["rows"]),
        f"# {title}",
        summary,
        _origin(config, inputs),
        "## Rows",
        _count_table(counts),
    ]
    if "sources" in counts:
        parts += ["## Sources", _source_table(counts["sources"], counts["rows"])]
    if lengths is not None:
        from redi.data.lengths.plots import plot_lengths  # imports matplotlib, which `--help` does not need

        plot_lengths(lengths, folder / PLOT, config.get("max_prompt_tokens"), config.get("max_response_tokens"))
        parts += ["## Lengths", f"![Distributions of the lengths in {lengths.unit}]({PLOT})"]
        parts.append(length_tables(summarise(lengths)).rstrip())
    write_text(folder / CARD, "\n\n".join(parts) + "\n")


def _front_matter(num_rows: int) -> str:
    size = next((name for limit, name in SIZES.items() if num_rows < limit), "100M<n<1B")
    # No `configs` here: with them, datasets 5.2 identifies a local folder by its name and this text alone. It then
    # returns what it cached for another folder of that name, or for this one before it was rebuilt.
    return f"""---
size_categories:
- {size}
task_categories:
- text-generation
---"""


def _origin(config: Mapping[str, Any], inputs: Mapping[str, str | Path]) -> str:
    made_from = ", ".join(f"`{path}` ({name})" for name, path in inputs.items())
    options = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in config.items())
    return (
        f"Made from {made_from}, with the options {options}. `manifest.json` holds the hashes of the inputs and the "
        "versions of the libraries."
    )


def _count_table(counts: Mapping[str, Any]) -> str:
    dropped = [[f"dropped: {reason}", count] for reason, count in counts["dropped"].items()]
    cut = [[f"kept, {role} cut at the token limit", count] for role, count in counts.get("truncated", {}).items()]
    return grid(["", "rows"], [["input", counts["input_rows"]], *dropped, ["kept", counts["rows"]], *cut])


def _source_table(sources: Mapping[str, Mapping[str, int]], num_rows: int) -> str:
    rows = [
        [name, found["input"], found["kept"], f"{100 * found['kept'] / num_rows:.1f} %"]
        for name, found in sources.items()
    ]
    return grid(["source", "input", "kept", "of all kept"], rows)
