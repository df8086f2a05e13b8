"""Traces that were cut at the token limit: kept by default and counted, dropped on request."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpus import fails, read_rows, row, run, write_jsonl

from redi.data.selection import truncated

T, F = True, False


def made(name: str, flags: list[bool], reasons: list | None) -> dict:
    return row(name, flags, flags) | {"finish_reasons": reasons}


ROWS = [
    made("first negative cut", [T, F, F], ["stop", "length", "stop"]),
    made("only negative cut", [T, F], ["stop", "length"]),
    made("positive cut", [T, F, T], ["length", "stop", "stop"]),
    made("unknown", [T, F], None),
    made("partly unknown", [T, F], [None, "stop"]),
    made("reasons of other traces", [T, F], ["length"]),
    made("no negative", [T, T], ["length", "length"]),
    made("no positive", [F, F], ["length", "length"]),
]


@pytest.fixture
def corpus(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "raw.parquet")
    return tmp_path / "raw.parquet"


def build(name: str, corpus, output, *arguments) -> tuple[dict[str, dict], dict]:
    """The rows built, by problem, and the manifest's counts."""
    run(name, "--input", corpus, "--output", output, *arguments)
    rows = {(made.get("messages") or made["chosen"])[0]["content"]: made for made in read_rows(output)}
    return rows, json.loads((output / "manifest.json").read_text())["counts"]


def test_which_are_cut_by_hand():
    reasons = pa.array([["stop", "length"], None, ["length"], [None, "length", "stop"]], pa.list_(pa.string()))
    assert truncated(reasons, np.array([2, 1, 2, 3])).to_pylist() == [F, T, None, None, None, None, T, F]


def test_pairs_keep_cut_traces_and_count_them(corpus, tmp_path, capsys):
    rows, counts = build("build_pairs", corpus, tmp_path / "out")
    assert len(rows) == 6 and rows["first negative cut"]["rejected_gen_idx"] == 1
    assert counts["truncated"] == {"chosen": 1, "rejected": 2}
    assert "truncated, rejected 2" in " ".join(capsys.readouterr().out.split())
    assert "| kept, rejected cut at the token limit" in (tmp_path / "out" / "README.md").read_text()


def test_pairs_without_cut_traces(corpus, tmp_path):
    rows, counts = build("build_pairs", corpus, tmp_path / "out", "--truncated", "drop")
    assert "only negative cut" not in rows and len(rows) == 5
    assert rows["first negative cut"]["rejected_gen_idx"] == 2 and rows["positive cut"]["chosen_gen_idx"] == 2
    assert counts["truncated"] == {"chosen": 0, "rejected": 0}
    assert counts["dropped"]["only truncated generations"] == 1
    assert counts["dropped"]["no negative generation"] == counts["dropped"]["no positive generation"] == 1


def test_positives(corpus, tmp_path):
    rows, counts = build("build_positives", corpus, tmp_path / "kept")
    assert len(rows) == 7 and counts["truncated"] == {"chosen": 2}
    rows, counts = build("build_positives", corpus, tmp_path / "dropped", "--truncated", "drop")
    assert len(rows) == 6 and rows["positive cut"]["chosen_gen_idx"] == 2
    assert counts["dropped"]["only truncated generations"] == 1 and counts["truncated"] == {"chosen": 0}


def test_the_ablation_counts_each_set(corpus, tmp_path):
    totals = {}
    for policy in ("keep", "drop"):
        run("ablate_verifiers", "--input", corpus, "--output", tmp_path / policy, "--truncated", policy)
        counts = json.loads((tmp_path / policy / "manifest.json").read_text())["counts"]["sets"]
        totals[policy] = {name: sum(of_set["truncated"].values()) for name, of_set in counts.items()}
    assert totals["keep"]["main"] + totals["keep"]["inverted"] == 3  # of three pairs, each in one of the halves
    assert 1 <= totals["keep"]["sft"] <= 4  # "no negative", and one side of each pair
    assert totals["drop"] == {"sft": 0, "main": 0, "inverted": 0}


def test_drop_needs_finish_reasons(tmp_path, capsys):
    corpus = write_jsonl(tmp_path / "raw.jsonl", [row("p", [T, F], [T, F]), row("q", [T, F], [T, F])])
    for name in ("build_pairs", "build_positives", "ablate_verifiers"):
        error = fails(capsys, name, "--input", corpus, "--output", tmp_path / "out", "--truncated", "drop")
        assert "--truncated drop:" in error and "has no finish_reasons" in error
    run("build_pairs", "--input", corpus, "--output", tmp_path / "out")
    assert "truncated" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]


def test_drop_when_no_reason_of_a_selected_trace_is_known(tmp_path):
    """The corpus has finish reasons, if only for the row that is dropped by them."""
    rows = [ROWS[3], ROWS[3] | {"problem": "other"}, made("cut", [T, F], ["length", "length"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw.parquet")
    rows, counts = build("build_pairs", tmp_path / "raw.parquet", tmp_path / "out", "--truncated", "drop")
    assert rows.keys() == {"unknown", "other"} and counts["truncated"] == {"chosen": 0, "rejected": 0}
    assert counts["dropped"]["only truncated generations"] == 1
    run("ablate_verifiers", "--input", tmp_path / "raw.parquet", "--output", tmp_path / "sets", "--truncated", "drop")
    sets = json.loads((tmp_path / "sets" / "manifest.json").read_text())["counts"]["sets"]
    assert sets["main"]["truncated"] == {"chosen": 0, "rejected": 0}
