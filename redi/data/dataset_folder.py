"""The output folder of a data command: not made twice, and finished with a report, a card and a manifest."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from redi.data.lengths.dataset_lengths import DatasetLengths, length_tables, summarise
from redi.runs.files import CARD, check_output, fingerprint, new_folder, write_text
from redi.runs.manifest import is_finished, write_manifest
from redi.runs.markdown import grid

PLOT = "lengths.png"
REPORT = "report.json"
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")  # the Hub's names

Inputs = Mapping[str, str | Path]  # name -> path or Hub id


@dataclass
class NewDataset:
    """A dataset that is being written into `folder`, which becomes `output`. Its inputs are hashed meanwhile."""

    folder: Path
    output: Path
    config: dict[str, Any]
    inputs: Inputs
    started: float = field(default_factory=time.time)

    def __post_init__(self):
        self._hashes: dict[str, str] = {}
        self._hashing = Thread(target=self._hash_inputs, daemon=True)  # a command that fails does not wait for it
        self._hashing.start()

    def _hash_inputs(self) -> None:
        with suppress(OSError):  # the manifest hashes what is missing, and reports the error
            self._hashes = {name: fingerprint(path) for name, path in self.inputs.items()}

    def finish(
        self,
        counts: dict[str, Any],
        summary: str | None = None,
        *,
        lengths: DatasetLengths | None = None,
        report: dict[str, Any] | None = None,
        part: str = "",
    ) -> None:
        """Writes `report.json` if one is given, a card if there is a `summary` of the rows, and `manifest.json`.

        `counts` are as `write_card` needs them, with `files`; `part` is the dataset's subfolder, if there are several.
        """
        folder, config = self.folder / part, self.config | ({"set": part} if part else {})
        about = {"config": config, "inputs": self.inputs, "counts": counts}
        if report is not None:
            write_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
        if summary is not None:
            write_card(folder, title=(self.output.resolve() / part).name, summary=summary, **about, lengths=lengths)
        self._hashing.join()
        write_manifest(folder, **about, seed=config.get("seed"), started=self.started, fingerprints=self._hashes)


@contextmanager
def new_dataset(output: Path, config: dict[str, Any], inputs: Inputs, overwrite: bool) -> Iterator[NewDataset]:
    """A dataset to be written and finished, in a `redi.runs.files.new_folder`: if the body fails, nothing is left."""
    with new_folder(output, overwrite, inputs.values()) as folder:
        yield NewDataset(folder, output, config, inputs)


def is_done(output: Path, config: dict[str, Any], inputs: Inputs, overwrite: bool) -> bool:
    """Whether the same options on the same inputs are finished, with all files; a `UsageError` as `check_output`."""
    check_output(output, inputs.values())
    return not overwrite and is_finished(output, config, inputs)


def count_table(counts: dict[str, Any]) -> str:
    """The counts of a build as aligned lines: the input, the drops for each reason, the rows kept."""
    lines = {"input rows": counts["input_rows"]}
    lines |= {f"  {reason}": -count for reason, count in counts["dropped"].items()}
    lines["kept"] = counts["rows"]
    lines |= {f"  truncated, {role}": count for role, count in counts.get("truncated", {}).items()}
    return "\n".join(f"{name:<26}{count:>9,}" for name, count in lines.items())


def write_card(
    folder: Path,
    *,
    title: str,
    summary: str,
    config: Mapping[str, Any],
    inputs: Inputs,
    counts: Mapping[str, Any],
    lengths: DatasetLengths | None = None,
) -> None:
    """Writes `README.md`, and `lengths.png` if lengths are given, into a folder of `train-*.parquet`.

    `load_dataset(folder)` and the Hub find the rows by that name. `counts` holds `input_rows`, `dropped` (reason ->
    rows) and `rows`, and optionally `truncated` (role -> traces cut at the token limit) and `sources` (name -> `input`
    and `kept` rows).
    """
    made_from = ", ".join(f"`{path}` ({name})" for name, path in inputs.items())
    options = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in config.items())
    rows = {"input": counts["input_rows"]} | {f"dropped: {name}": count for name, count in counts["dropped"].items()}
    rows["kept"] = counts["rows"]
    rows |= {f"kept, {role} cut at the token limit": count for role, count in counts.get("truncated", {}).items()}
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
        grid(["", "rows"], list(map(list, rows.items()))),
    ]
    if "sources" in counts:
        rows = [
            [name, found["input"], found["kept"], f"{100 * found['kept'] / counts['rows']:.1f} %"]
            for name, found in counts["sources"].items()
        ]
        parts += ["## Sources", grid(["source", "input", "kept", "of all kept"], rows)]
    if lengths is not None:
        from redi.data.lengths.plots import plot_lengths  # imports matplotlib, which `--help` does not need

        plot_lengths(lengths, folder / PLOT, config.get("max_prompt_tokens"), config.get("max_response_tokens"))
        parts += ["## Lengths", f"![Distributions of the lengths in {lengths.unit}]({PLOT})"]
        parts.append(length_tables(summarise(lengths)).rstrip())
    write_text(folder / CARD, "\n\n".join(parts) + "\n")
