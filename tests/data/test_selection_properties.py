"""Random rows with nulls and lists of odd lengths: selection against a plain loop, JSON lines against parquet."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpus import SCHEMA, uuid_of
from hypothesis import given, settings
from hypothesis import strategies as st

from redi.data.reading.rows import open_corpus
from redi.data.reading.schema import SELECTION, VERIFIERS, column_of
from redi.data.selection import CHECKS, NO_NEGATIVE, NO_POSITIVE, select_pairs, select_positives

TEXTS = st.text(max_size=4)
FLAGS = st.none() | st.lists(st.sampled_from([True, False, None]), max_size=3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "problem": st.none() | TEXTS,
            "answer": st.none() | TEXTS,
            "problem_is_valid": st.sampled_from(["Yes", "YES ", "\u2003yes\n", "No", "", "y es", None]),
            "source": st.sampled_from(["olympiads", "cn_k12", "cn_k12 ", "", None]),
            "generations": st.none() | st.lists(TEXTS, max_size=3),
            "correctness": st.none() | st.fixed_dictionaries({name: FLAGS for name in VERIFIERS}),
        }
    ),
    max_size=8,
)
# As above, but most rows pass the checks, so that the verdicts decide.
SOUND_ROWS = st.lists(
    st.integers(1, 4).flatmap(
        lambda n: st.fixed_dictionaries(
            {
                "problem": st.text(min_size=1, max_size=4),
                "problem_is_valid": st.just("yes"),
                "source": st.sampled_from(["olympiads", None]),
                "generations": st.lists(TEXTS, min_size=n, max_size=n),
                "correctness": st.fixed_dictionaries(
                    {
                        name: st.lists(st.sampled_from([True, False, None]), min_size=n, max_size=n)
                        for name in VERIFIERS
                    }
                ),
            }
        )
    ),
    max_size=8,
)
repeatable = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def failed_check(row):
    """The oracle of the checks, one row at a time as the original: the first that fails, or None."""
    lists = [(row["correctness"] or {}).get(name) for name in VERIFIERS]
    if not isinstance(row["problem_is_valid"], str) or row["problem_is_valid"].strip().lower() != "yes":
        return CHECKS[0]
    if row["source"] == "cn_k12":
        return CHECKS[1]
    if not row["problem"]:
        return CHECKS[2]
    if not row["generations"]:
        return CHECKS[3]
    return CHECKS[4] if any(x is None or len(x) != len(row["generations"]) for x in lists) else None


def first(flags):
    return next((i for i, flag in enumerate(flags) if flag), None)


def votes(row):
    return [bool(a) + bool(b) for a, b in zip(*(row["correctness"][name] for name in VERIFIERS), strict=True)]


def oracle_positive(row, rule):
    if reason := failed_check(row):
        return reason
    both, either = (first(vote >= wanted for vote in votes(row)) for wanted in (2, 1))
    chosen = either if both is None and rule == "either" else both
    return NO_POSITIVE if chosen is None else (chosen, "LorMV_only" if both is None else "LandMV_preferred")


def oracle_pair(row, negatives):
    if reason := failed_check(row):
        return reason
    chosen = first(vote == 2 for vote in votes(row))
    rejected = first(vote < {"not-both": 2, "neither": 1}[negatives] for vote in votes(row))
    if chosen is None:
        return NO_POSITIVE
    return NO_NEGATIVE if rejected is None else (chosen, rejected)


def batch_of(rows):
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    columns = {name: column_of(batch, name) for name in SELECTION}
    return pa.record_batch(columns | {"original_index": pa.array(np.arange(len(rows)))})


def compare(rows, select, oracle, keep):
    """Selects, and compares rows and counts with the oracle's; `keep` maps a made row to what the oracle returns."""
    made, drops = select(batch_of(rows))
    expected = {i: oracle(row) for i, row in enumerate(rows)}
    reasons = [outcome for outcome in expected.values() if isinstance(outcome, str)]
    assert {reason: count for reason, count in drops.items() if count} == {r: reasons.count(r) for r in reasons}
    assert [(row["original_index"], keep(row)) for row in made.to_pylist()] == [
        (i, outcome) for i, outcome in expected.items() if not isinstance(outcome, str)
    ]
    for row in made.to_pylist():
        original = rows[row["original_index"]]
        assert row["uuid"] == uuid_of(original["problem"], original["generations"])
        assert row["source"] == original["source"]
    return made.to_pylist()


@pytest.mark.parametrize("rule", ["both", "either"])
@repeatable
@given(ROWS | SOUND_ROWS)
def test_positives(rule, rows):
    made = compare(
        rows,
        lambda batch: select_positives(batch, rule, ["cn_k12"]),
        lambda row: oracle_positive(row, rule),
        lambda row: (row["chosen_gen_idx"], row.get("sft_rule", "LandMV_preferred")),
    )
    for row in made:
        original = rows[row["original_index"]]
        texts = [original["problem"], original["generations"][row["chosen_gen_idx"]]]
        assert row["messages"] == [
            {"role": r, "content": t} for r, t in zip(("user", "assistant"), texts, strict=True)
        ]


@pytest.mark.parametrize("negatives", ["not-both", "neither"])
@repeatable
@given(ROWS | SOUND_ROWS)
def test_pairs(negatives, rows):
    made = compare(
        rows,
        lambda batch: select_pairs(batch, ["cn_k12"], negatives),
        lambda row: oracle_pair(row, negatives),
        lambda row: (row["chosen_gen_idx"], row["rejected_gen_idx"]),
    )
    for row in made:
        original = rows[row["original_index"]]
        assert row["prompt"] == original["problem"]
        for side in ("chosen", "rejected"):
            texts = [original["problem"], original["generations"][row[f"{side}_gen_idx"]]]
            assert [turn["content"] for turn in row[side]] == texts
            assert [turn["role"] for turn in row[side]] == ["user", "assistant"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@repeatable
@given(ROWS)
def test_json_lines_are_read_as_parquet_is(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "raw.parquet")
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
    (folder / "raw.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    made = []
    for name in ("raw.parquet", "raw.jsonl"):
        corpus = open_corpus(str(folder / name), ("answer", *SELECTION))
        assert corpus.num_rows == len(rows)
        made.append([row for batch in corpus.batches for row in batch.to_pylist()])
    assert made[0] == made[1]
