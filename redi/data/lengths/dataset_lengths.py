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
    """The lengths of all rows of a dataset, int64 `(rows,)` each, and the name of each row's source, `(rows,)`.

    Pairs have the columns `prompt, chosen, rejected, total`; positives `prompt, response, total`.
    """

    unit: str  # "tokens" or "characters"
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
        return {
            name: DatasetLengths(self.unit, {key: of[rows] for key, of in self.columns.items()}, self.sources[rows])
            for name, rows in masks.items()
        }


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
    if COUNTS[0] in table.column_names:
        return DatasetLengths("tokens", recorded_tokens(table), source_names(table))
    columns = {}
    for column, name in side_columns(table.column_names).items():
        for role, turn in (("prompt", 0), (name, 1)):
            texts = pc.struct_field(pc.list_element(table[column], turn), "content")
            columns[role] = pc.utf8_length(texts).to_numpy().astype(np.int64)
    return DatasetLengths("characters", columns, source_names(table))


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


def summarise(
    lengths: DatasetLengths, max_prompt: int | None = None, max_response: int | None = None
) -> dict[str, Any]:
    """The percentiles of all rows and of each source, and what inclusive limits would drop; JSON can hold it.

    A percentile is a length that occurs: the smallest one that at least that share of the rows does not exceed.
    """
    groups = lengths.by_source()
    summary = {"unit": lengths.unit, **_percentiles(lengths)}
    summary["sources"] = {name: _percentiles(group) for name, group in groups.items()}
    if max_prompt is not None or max_response is not None:
        limits = {"max_prompt": max_prompt, "max_response": max_response}
        summary["limits"] = {**limits, "dropped": _dropped(lengths, **limits)}
        summary["limits"]["by_source"] = {name: _dropped(group, **limits) for name, group in groups.items()}
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
    prompt = lengths.columns["prompt"] > (np.inf if max_prompt is None else max_prompt)
    response = (longest > (np.inf if max_response is None else max_response)) & ~prompt
    masks = {PROMPT_TOO_LONG: prompt, RESPONSE_TOO_LONG: response, "kept": ~(prompt | response)}
    return {name: int(mask.sum()) for name, mask in masks.items()}


def length_tables(summary: dict[str, Any]) -> str:
    """A summary as Markdown tables."""
    unit, lengths = summary["unit"], summary["lengths"]
    rows = [[name, *found.values()] for name, found in lengths.items()]
    parts = [f"Lengths of {summary['rows']:,} rows, in {unit}:", grid([unit, *lengths["prompt"]], rows)]
    shown = [(name, column) for name in lengths for column in ("p50", "p95")]
    rows = [
        [source, group["rows"], *(group["lengths"][name][column] for name, column in shown)]
        for source, group in summary["sources"].items()
    ]
    parts += ["By source:", grid(["source", "rows", *map(" ".join, shown)], rows)]
    if limits := summary.get("limits"):
        given = {role: limits[f"max_{role}"] for role in ("prompt", "response") if limits[f"max_{role}"] is not None}
        named = " and ".join(f"of {limit:,} {unit} for a {role}" for role, limit in given.items())
        rows = [[name, *of.values()] for name, of in limits["by_source"].items()]
        rows.append(["all", *limits["dropped"].values()])
        parts += [f"With limits {named}:", grid(["source", *limits["dropped"]], rows)]
    return "\n\n".join(parts) + "\n"
