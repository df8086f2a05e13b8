"""The lengths of positives and pairs, in tokens or characters, by source."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.row_texts import side_columns
from redi.runs.errors import UsageError

RESPONSES = ("chosen", "rejected", "response")  # those of pairs, and that of positives
COUNTS = ("prompt_len", "chosen_len", "rejected_len")
NO_SOURCE = "(none)"
MAX_SOURCES = 10  # in tables and plots; the smallest of more are shown as one

Columns = dict[str, np.ndarray]


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
        return [name for name in RESPONSES if name in self.columns]

    def by_source(self) -> dict[str, "DatasetLengths"]:
        """The lengths by source, the largest first. Of more than `MAX_SOURCES`, the smallest form one group."""
        names = [name for name, _ in Counter(self.sources.tolist()).most_common()]
        shown = names if len(names) <= MAX_SOURCES else names[: MAX_SOURCES - 1]
        masks = {name: self.sources == name for name in shown}
        if len(shown) < len(names):
            masks[f"{len(names) - len(shown)} others"] = ~np.isin(self.sources, shown)
        return {
            name: DatasetLengths(
                self.unit, {key: values[rows] for key, values in self.columns.items()}, self.sources[rows]
            )
            for name, rows in masks.items()
        }


class LengthRecorder:
    """Collects the lengths of a dataset a table at a time."""

    def __init__(self) -> None:
        self._unit = ""
        self._columns: list[Columns] = []
        self._sources: list[str] = []

    def add(self, unit: str, columns: Columns, sources: pa.Array | pa.ChunkedArray) -> None:
        """Adds rows: their lengths without `total`, and their sources."""
        self._unit = unit
        self._columns.append(columns)
        self._sources += [NO_SOURCE if name is None else str(name) for name in sources.to_pylist()]

    def recording(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Passes on tables of a build, and adds their token counts or, without any, their characters."""
        for table in tables:
            counted = COUNTS[0] in table.column_names
            columns = recorded_tokens(table) if counted else _characters(table)
            self.add("tokens" if counted else "characters", columns, table["source"])
            yield table

    def lengths(self) -> DatasetLengths:
        """The lengths of all rows added, at least one."""
        columns = {name: np.concatenate([part[name] for part in self._columns]) for name in self._columns[0]}
        columns["total"] = sum(columns.values())
        return DatasetLengths(self._unit, columns, np.array(self._sources, dtype=object))


def recorded_tokens(table: pa.Table | pa.RecordBatch, first_row: int = 0) -> Columns:
    """The token counts that `build_pairs.py` wrote into rows, of which the first is row `first_row` of the dataset.

    Raises:
        UsageError: naming the first row whose count is not a whole number.
    """
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
