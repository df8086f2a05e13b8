"""Measures the lengths of positives and pairs, in tokens or characters, a table at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.lengths.length_rules import pair_lengths, prompt_lengths, response_lengths
from redi.runs.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESPONSES = ("chosen", "rejected", "response")  # those of pairs, and that of positives
NO_SOURCE = "(none)"
MAX_SOURCES = 10  # in tables and plots; the smallest of more are shown as one

# A table -> the unit, and the lengths of its rows as in `DatasetLengths.columns`, without `total`.
Measure = Callable[[pa.Table], tuple[str, dict[str, np.ndarray]]]


@dataclass(frozen=True)
class DatasetLengths:
    """The lengths of all rows of a dataset.

    Attributes:
        unit: "tokens" or "characters".
        columns: int64 `(rows,)` each: `prompt`, `chosen`, `rejected` and `total` (their sum) of pairs; `prompt`,
            `response` and `total` of positives.
        sources: the names of the sources, the one with most rows first.
        source_of: the position in `sources` of each row's source, `(rows,)`.
    """

    unit: str
    columns: dict[str, np.ndarray]
    sources: list[str]
    source_of: np.ndarray

    @property
    def responses(self) -> list[str]:
        """The names of the columns that are responses."""
        return [name for name in RESPONSES if name in self.columns]

    def select(self, rows: np.ndarray) -> "DatasetLengths":
        """The lengths of the rows at which a bool mask `(rows,)` is set."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return DatasetLengths(self.unit, columns, self.sources, self.source_of[rows])

    def by_source(self) -> dict[str, "DatasetLengths"]:
        """The lengths by source, the largest first. Of more than `MAX_SOURCES`, the smallest form one group."""
        shown = len(self.sources) if len(self.sources) <= MAX_SOURCES else MAX_SOURCES - 1
        groups = {name: self.select(self.source_of == i) for i, name in enumerate(self.sources[:shown])}
        if shown < len(self.sources):
            groups[f"{len(self.sources) - shown} others"] = self.select(self.source_of >= shown)
        return groups


def recorded_lengths(table: pa.Table) -> tuple[str, dict[str, np.ndarray]]:
    """The token counts that `build_pairs.py` wrote into the rows; without them, the characters of each text."""
    if "prompt_len" in table.column_names:
        return "tokens", {name: table[f"{name}_len"].to_numpy() for name in ("prompt", "chosen", "rejected")}
    columns: dict[str, np.ndarray] = {}
    for name, turns in _turns(table).items():
        sizes = pc.utf8_length(turns).to_numpy().astype(np.int64).reshape(-1, 2)
        columns["prompt"], columns[name] = sizes[:, 0], sizes[:, 1]
    return "characters", columns


def counted_lengths(tokenizer: "PreTrainedTokenizerBase", rule: str) -> Measure:
    """Makes a function that counts the tokens of pairs or positives as `build_pairs.py --length-rule` does."""

    def measure(table: pa.Table) -> tuple[str, dict[str, np.ndarray]]:
        texts = {name: turns.to_pylist() for name, turns in _turns(table).items()}
        prompts = next(iter(texts.values()))[::2]
        responses = {name: turns[1::2] for name, turns in texts.items()}
        if "chosen" in responses:
            return "tokens", pair_lengths(tokenizer, rule, prompts, **responses)[0]
        columns = {"prompt": prompt_lengths(tokenizer, rule, prompts)}
        columns |= {name: response_lengths(tokenizer, rule, prompts, of_side) for name, of_side in responses.items()}
        return "tokens", columns

    return measure


def _turns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """By response column: the prompt and the response of every row, alternating, `(2 * rows,)`."""
    turns = {}
    for column, name in {"chosen": "chosen", "rejected": "rejected", "messages": "response"}.items():
        if column in table.column_names:
            turns[name] = pc.struct_field(pc.list_flatten(table[column]), "content")
            if len(turns[name]) != 2 * len(table):
                raise UsageError(f"--input: '{column}' must hold a user turn and an assistant turn in every row")
    return turns


class LengthRecorder:
    """Measures tables as they pass from one function to the next."""

    def __init__(self, measure: Measure = recorded_lengths):
        self._measure = measure
        self._unit = ""
        self._measured: list[dict[str, np.ndarray]] = []
        self._names: dict[str, int] = {}
        self._sources: list[np.ndarray] = []

    def recording(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Passes on tables, which need a column `source`, and measures them."""
        for table in tables:
            self._unit, columns = self._measure(table)
            self._measured.append(columns)
            encoded = pc.fill_null(table["source"].cast(pa.string()), NO_SOURCE).combine_chunks().dictionary_encode()
            names = [self._names.setdefault(name, len(self._names)) for name in encoded.dictionary.to_pylist()]
            self._sources.append(np.array(names, dtype=np.int32)[encoded.indices.to_numpy()])
            yield table

    def lengths(self) -> DatasetLengths:
        """The lengths of all tables passed on, which must hold at least one row."""
        columns = {name: np.concatenate([part[name] for part in self._measured]) for name in self._measured[0]}
        columns["total"] = sum(columns.values())
        found = np.concatenate(self._sources)
        order = np.argsort(-np.bincount(found), kind="stable")  # the largest first
        names = list(self._names)
        return DatasetLengths(self._unit, columns, [names[i] for i in order], np.argsort(order)[found])
