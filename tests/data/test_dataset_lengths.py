"""Lengths of datasets, their summaries and their plot, against numbers worked out by hand."""

import numpy as np
import pyarrow as pa
from helpers.corpus import turns
from matplotlib.image import imread

from redi.data.lengths.dataset_lengths import DatasetLengths, built_lengths, joined, length_tables, summarise
from redi.data.lengths.plots import plot_lengths


def lengths_of(prompts, chosen, rejected, sources):
    columns = {"prompt": np.array(prompts), "chosen": np.array(chosen), "rejected": np.array(rejected)}
    columns["total"] = sum(columns.values())
    return DatasetLengths("tokens", columns, np.array(sources, dtype=object))


# Of ten rows: prompts 10, 20, ..., 100.
TEN = lengths_of(range(10, 110, 10), [1] * 9 + [200], [5] * 8 + [150, 5], ["aops"] * 4 + ["amc"] * 6)


def pairs_table(*rows):
    """Pairs of `(prompt, chosen, rejected, source)`."""
    made = [
        {"prompt": p, "chosen": turns(p, c), "rejected": turns(p, r), "source": source} for p, c, r, source in rows
    ]
    return pa.Table.from_pylist(made)


def test_characters_by_hand():
    first = pairs_table(("ab", "abc", "\u03c0", "aops"), ("a", "", "four", "amc"))
    second = pairs_table(("abc", "a", "a", None), ("abcd", "ab", "b", "amc"))
    lengths = joined([built_lengths(first), built_lengths(second)])
    assert lengths.unit == "characters"
    assert {name: values.tolist() for name, values in lengths.columns.items()} == {
        "prompt": [2, 1, 3, 4],
        "chosen": [3, 0, 1, 2],
        "rejected": [1, 4, 1, 1],
        "total": [6, 5, 5, 7],
    }
    assert lengths.sources.tolist() == ["aops", "amc", "(none)", "amc"]
    assert list(lengths.by_source()) == ["amc", "aops", "(none)"]


def test_token_counts_in_the_rows_are_used():
    table = pairs_table(("ab", "abc", "a", "aops"))
    for name, value in {"prompt_len": 11, "chosen_len": 12, "rejected_len": 13}.items():
        table = table.append_column(name, pa.array([value]))
    lengths = joined([built_lengths(table)])
    assert lengths.unit == "tokens"
    assert {name: values.tolist() for name, values in lengths.columns.items()} == {
        "prompt": [11],
        "chosen": [12],
        "rejected": [13],
        "total": [36],
    }


def test_percentiles_are_lengths_that_occur():
    found = summarise(TEN)["lengths"]["prompt"]
    # At least half of the ten do not exceed 50, and at least 75 % do not exceed 80.
    percentiles = {"p5": 10, "p25": 30, "p50": 50, "p75": 80, "p90": 90, "p95": 100, "p99": 100}
    assert found == {"min": 10, **percentiles, "max": 100, "mean": 55.0}
    assert summarise(TEN)["lengths"]["total"]["max"] == 100 + 200 + 5
    assert summarise(TEN)["sources"]["amc"]["rows"] == 6
    assert summarise(TEN)["sources"]["aops"]["lengths"]["prompt"]["max"] == 40


def test_what_limits_drop():
    limits = summarise(TEN, max_prompt=90, max_response=149)["limits"]
    # The last row's prompt exceeds 90, its chosen response too: counted once. The ninth's rejected one exceeds 149.
    assert limits["dropped"] == {"prompt too long": 1, "response too long": 1, "kept": 8}
    assert limits["by_source"]["aops"] == {"prompt too long": 0, "response too long": 0, "kept": 4}
    assert summarise(TEN, max_response=150)["limits"]["dropped"] == {
        "prompt too long": 0,
        "response too long": 1,
        "kept": 9,
    }
    shown = length_tables(summarise(TEN, 90, 149))
    assert "With limits of 90 tokens for a prompt and of 149 tokens for a response:" in shown
    assert "limits" not in summarise(TEN)


def test_many_sources_are_summed_up():
    names = [f"s{i}" for i in range(12) for _ in range(12 - i)]
    groups = lengths_of([1] * 78, [1] * 78, [1] * 78, names).by_source()
    assert list(groups) == [*(f"s{i}" for i in range(9)), "3 others"]
    assert [len(group.sources) for group in groups.values()] == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3 + 2 + 1]


def test_picture(tmp_path):
    for name, limits in (("without", ()), ("with", (90, 149))):
        plot_lengths(TEN, tmp_path / f"{name}.png", *limits)
    pictures = [imread(tmp_path / f"{name}.png") for name in ("without", "with")]
    assert pictures[0].shape == pictures[1].shape == (720, 1100, 4)
    assert (pictures[0] != pictures[1]).any()
    # Lengths of 0, and all the same, have a place on a logarithmic axis.
    plot_lengths(lengths_of([0, 0], [0, 0], [0, 0], ["", "$\\x$"]), tmp_path / "zeros.png")
