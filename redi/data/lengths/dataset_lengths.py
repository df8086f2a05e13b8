"""The lengths of positives and pairs, in tokens or characters, by source: collected, summarised and as tables."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.lengths.length_rules import PROMPT_TOO_LONG, RESPONSE_TOO_LONG, Columns
from redi.data.row_texts import side_columns
from redi.runs.errors import UsageError
from redi.runs.markdown import grid

COUNTS = ("prompt_len", "chosen_len", "rejected_len")
NO_SOURCE = "(none)"
MAX_SOURCES = 10  # in tables and plots; the smallest of more are shown as one
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class DatasetLengths:
    """The lengths of all rows of a dataset.

    Attributes:
        unit: "tokens" or "characters".
        columns: int64 `(rows,)` each: `prompt`, `chosen`, `rejected` and `total` (their sum) of pairs; `prompt`,
            `response` and `total` of positives.
        sources: the name of each row's source, `(rows,)`.
    """

    unit: str
    columns: Columns
    sources: np.ndarray

    @property
    def responses(self) -> list[str]:
        """The names of the columns that are responses."""
        return [name for name in self.columns if name not in ("prompt", "total")]

    def by_source(self) -> dict[str, "DatasetLengths"]:
        """The lengths by source, the largest first. Of more than `MAX_SOURCES`, the smallest form one group."""
        names = [name for name, _ in Counter(self.sources.tolist()).most_common()]
        shown = names if len(names) <= MAX_SOURCES else names[: MAX_SOURCES - 1]
        masks = {name: self.sources == name for name in shown}
        if len(shown) < len(names):
            masks[f"{len(names) - len(shown)} others"] = ~np.isin(self.sources, shown)
        return {name: self._of(mask) for name, mask in masks.items()}

    def _of(self, rows: np.ndarray) -> "DatasetLengths":
        columns = {name: values[rows] for name, values in self.columns.items()}
        return DatasetLengths(self.unit, columns, self.sources[rows])


def joined(parts: list[DatasetLengths]) -> DatasetLengths:
    """The lengths of all rows of at least one part of a dataset; the parts have no `total`."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns["total"] = sum(columns.values())
    return DatasetLengths(parts[0].unit, columns, np.concatenate([part.sources for part in parts]))


def source_names(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """The name of each row's source, object `(rows,)`."""
    names = table["source"].to_pylist()
    return np.array([NO_SOURCE if name is None else str(name) for name in names], dtype=object)


def built_lengths(table: pa.Table) -> DatasetLengths:
    """The lengths of rows that a build wrote, without `total`: their token counts or, without any, characters."""
    counted = COUNTS[0] in table.column_names
    columns = recorded_tokens(table) if counted else _characters(table)
    return DatasetLengths("tokens" if counted else "characters", columns, source_names(table))


def recorded_tokens(table: pa.Table | pa.RecordBatch, first_row: int = 0) -> Columns:
    """The counts that `build_pairs.py` wrote into rows from `first_row` on; a `UsageError` names what is no count."""
    columns = {}
    for name in COUNTS:
        counts = table[name].to_pylist()
        for row, count in enumerate(counts, first_row):
            if not isinstance(count, int) or count < 0:
                what = f"'{name}' is {count}, not a number of tokens; pass --tokenizer to count them again"
                raise UsageError(f"--input: row {row}: {what}")
        columns[name.removesuffix("_len")] = np.array(counts, dtype=np.int64)
    return columns


def _characters(table: pa.Table) -> Columns:
    """The characters of rows that a build wrote: a user turn and an assistant turn each."""
    columns = {}
    for column, name in side_columns(table.column_names).items():
        for role, turn in (("prompt", 0), (name, 1)):
            texts = pc.struct_field(pc.list_element(table[column], turn), "content")
            columns[role] = pc.utf8_length(texts).to_numpy().astype(np.int64)
    return columns


def summarise(
    lengths: DatasetLengths, max_prompt: int | None = None, max_response: int | None = None
) -> dict[str, Any]:
    """The percentiles of all rows and of each source, and what inclusive limits would drop; JSON can hold it.

    A percentile is a length that occurs: the smallest one that at least that share of the rows does not exceed.
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
    """Counts drops as `length_rules.filter_by_length` does: a row too long in both is counted by its prompt."""
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
