"""The output folder of a data command: never over its input, not built twice, with a card and a manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi.data.dataset_card import write_card
from redi.data.lengths.dataset_lengths import DatasetLengths
from redi.runs.errors import UsageError
from redi.runs.files import check_output
from redi.runs.manifest import is_finished, read_manifest, write_manifest


def refuse_output_over_input(output: Path, inputs: Mapping[str, str | Path]) -> None:
    """Raises a `UsageError`, before any work, if `output` cannot be written or holds an input (`check_output`)."""
    check_output(output, inputs.values())


def is_complete(output: Path, config: dict[str, Any], inputs: Mapping[str, str | Path]) -> bool:
    """Whether `output` is the finished result of the same options and inputs, with all its shards."""
    return is_finished(output, config, inputs)


def already_done(output: Path, expect_rows: int | None) -> str:
    """What to print for a complete dataset.

    Raises:
        UsageError: as `check_expected`.
    """
    num_rows = read_manifest(output, "counts.rows")["counts"]["rows"]
    check_expected(expect_rows, num_rows)
    return f"{output}: already done, {num_rows} rows"


def check_expected(expected: int | None, num_rows: int) -> None:
    """Raises a `UsageError` with both numbers if another number of rows was expected."""
    if expected is not None and num_rows != expected:
        raise UsageError(f"--expect-rows {expected}: the result has {num_rows} rows")


def write_card_and_manifest(
    folder: Path,
    output: Path,
    summary: str,
    *,
    config: dict[str, Any],
    inputs: Mapping[str, str | Path],
    counts: dict[str, Any],
    started: float,
    lengths: DatasetLengths | None = None,
    fingerprints: dict[str, str] | None = None,
) -> None:
    """Finishes a folder of `train-*.parquet` that is going to be renamed to `output`.

    Args:
        folder: holds the shards.
        output: its later path, whose name is the card's title.
        summary: what the rows are, in a sentence or two.
        config, inputs, started, fingerprints: as in `redi.runs.manifest.write_manifest`; `config` may hold `seed`.
        counts: as `redi.data.dataset_card.write_card` needs them, and `files`.
        lengths: of the rows, for the card.
    """
    about = {"config": config, "inputs": inputs, "counts": counts}
    write_card(folder, title=output.resolve().name, summary=summary, **about, lengths=lengths)
    write_manifest(folder, **about, seed=config.get("seed"), started=started, fingerprints=fingerprints)


def count_table(counts: dict[str, Any]) -> str:
    """The counts of a build as aligned lines: the input, the drops for each reason, the rows kept."""
    lines = {"input rows": counts["input_rows"]}
    lines |= {f"  {reason}": -count for reason, count in counts["dropped"].items()}
    lines["kept"] = counts["rows"]
    lines |= {f"  truncated, {role}": count for role, count in counts.get("truncated", {}).items()}
    return "\n".join(f"{name:<26}{count:>9,}" for name, count in lines.items())
