"""Writes the dataset card of an output folder: README.md as the Hub reads it, and a plot of the lengths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi.data.lengths.dataset_lengths import DatasetLengths
from redi.data.lengths.tables import length_tables, summarise
from redi.runs.files import CARD, fingerprint, write_text
from redi.runs.markdown import grid

PLOT = "lengths.png"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")  # the Hub's names


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
        counts: `input_rows`, `dropped` (reason -> rows) and `rows`, and optionally `truncated` (role -> traces cut at
            the token limit) and `sources` (name -> `input` and `kept` rows).
        lengths: of the rows.
    """
    made_from = ", ".join(f"`{path}` ({name})" for name, path in inputs.items())
    options = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in config.items())
    rows = [["input", counts["input_rows"]]]
    rows += [[f"dropped: {reason}", count] for reason, count in counts["dropped"].items()]
    rows += [["kept", counts["rows"]]]
    rows += [[f"kept, {role} cut at the token limit", count] for role, count in counts.get("truncated", {}).items()]
    size = SIZES[min(max(0, len(str(counts["rows"])) - 3), len(SIZES) - 1)]
    parts = [
        # No `configs` here: with them, datasets 5.2 identifies a local folder by its name and this text alone. It then
        # returns what it cached for another folder of that name, or for this one before it was rebuilt.
        f"---\nsize_categories:\n- {size}\ntask_categories:\n- text-generation\n---",
        f"# {title}",
        summary,
        f"Made from {made_from}, with the options {options}. `manifest.json` holds the hashes of the inputs and the "
        "versions of the libraries.",
        "## Rows",
        grid(["", "rows"], rows),
    ]
    if "sources" in counts:
        shares = {name: f"{100 * found['kept'] / counts['rows']:.1f} %" for name, found in counts["sources"].items()}
        rows = [[name, found["input"], found["kept"], shares[name]] for name, found in counts["sources"].items()]
        parts += ["## Sources", grid(["source", "input", "kept", "of all kept"], rows)]
    if lengths is not None:
        from redi.data.lengths.plots import plot_lengths  # imports matplotlib, which `--help` does not need

        plot_lengths(lengths, folder / PLOT, config.get("max_prompt_tokens"), config.get("max_response_tokens"))
        parts += ["## Lengths", f"![Distributions of the lengths in {lengths.unit}]({PLOT})"]
        parts.append(length_tables(summarise(lengths)).rstrip())
    write_text(folder / CARD, "\n\n".join(parts) + "\n")


def write_parent_card(folder: Path, *, title: str, summaries: Mapping[str, str]) -> None:
    """Writes the card of a folder of datasets, by which `load_dataset(folder, name)` finds each.

    Args:
        folder: the output folder, which holds the finished datasets.
        title: its heading.
        summaries: name -> what the rows of that dataset are.
    """
    lines = ["---", "configs:"]
    for name in summaries:
        # The description makes `datasets` tell other rows apart, which it would not (see `write_card`).
        lines += [f"- config_name: {name}", f"  data_files: {name}/train-*.parquet"]
        lines += [f"  description: rows {fingerprint(folder / name)}"]
    lines += ["---", "", f"# {title}", ""]
    lines += [f"- `{name}`: {summary}" for name, summary in summaries.items()]
    write_text(folder / CARD, "\n".join(lines) + "\n")
