"""Lengths of all traces, against the tokens of training."""

import numpy as np
import pytest
from datasets import Dataset
from helpers.tiny import make_pairs

from redi.preflight import lengths
from redi.preflight.lengths import tokenized_lengths, trace_lengths
from redi.text.training_rows import prepare_rows

pytest_plugins = ["helpers.preflight"]


def exact(rows: list[dict], tokenizer) -> np.ndarray:
    problems, _ = prepare_rows(Dataset.from_list(rows), ("pairs",), tokenizer, None)
    prompt, *sides = (np.array([len(ids) for ids in problems[name]]) for name in problems.column_names[:3])
    return np.stack([prompt + side for side in sides], axis=1)


def test_lengths_of_all_rows_are_those_of_training(job, tokenizer):
    found = trace_lengths(job.rows(), tokenizer)
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in map(job.on_disk, make_pairs(16))]
    assert found.problems == exact(rows, tokenizer).tolist()
    assert found.how == "every row tokenised"


def test_lengths_of_many_rows_come_from_characters(job, tokenizer, monkeypatch):
    rows = [job.on_disk(row) for row in make_pairs(64)]
    rows[37]["rejected"][1] = {"role": "assistant", "content": "<think>\n" + "so " * 900}
    job.write_rows(rows)
    monkeypatch.setattr(lengths, "ALL_CHARACTERS", 0)
    monkeypatch.setattr(lengths, "SAMPLE", 16)
    found = trace_lengths(job.rows(), tokenizer)
    real = exact([{name: row[name] for name in ("chosen", "rejected")} for row in rows], tokenizer)
    assert np.max(found.problems) == real.max()  # the longest is always tokenised
    assert np.sum(found.problems) == pytest.approx(real.sum(), rel=0.05)
    assert "estimated from characters; 17 rows tokenised" in found.how


@pytest.mark.parametrize("factor, used", [(1, True), (2, False)])
def test_length_columns_are_used_where_they_fit_the_tokenizer(job, tokenizer, factor, used):
    rows = [job.on_disk(row) for row in make_pairs(16)]
    real = exact([{name: row[name] for name in ("chosen", "rejected")} for row in rows], tokenizer)
    for row, (chosen, rejected) in zip(rows, real.tolist(), strict=True):  # counted with 30 tokens more
        row |= {"prompt_len": 10, "chosen_len": factor * chosen + 20, "rejected_len": factor * rejected + 20}
    job.write_rows(rows)
    found = trace_lengths(job.rows(), tokenizer)
    assert found.problems == real.tolist()
    assert ("median error, +30 tokens" in found.how) == used


def test_traces_of_one_prompt_are_one_problem(job, tokenizer):
    prompts = ["b", "a", "b", "b"]
    job.write_rows([{"prompt": p, "completion": "<think>\nx", "label": i > 1} for i, p in enumerate(prompts)])
    found = trace_lengths(job.rows("traces"), tokenizer)
    assert list(map(len, found.problems)) == [3, 1]
    positives = trace_lengths(job.rows("traces"), tokenizer, leaves_out_negatives=True)  # alpha: 0
    assert list(map(len, positives.problems)) == [2, 0]
    rows, counts = prepare_rows(Dataset.from_parquet(str(job.data / "*.parquet")), ("traces",), tokenizer, None)
    for leaves_out, expected in ((False, found), (True, positives)):
        assert tokenized_lengths(rows, counts, leaves_out) == expected


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"messages": None}], "row 1 of the dataset: `messages` must be a list of messages"),
        (
            [{"prompt": "x", "completion": "y", "label": 1}, {"prompt": "x", "completion": "y", "label": -1}],
            "label=-1",
        ),
        ([{"prompt": "x", "completion": "y", "label": True, "weight": "1.0"}], "weight='1.0' is not a positive"),
    ],
)
def test_rows_that_training_refuses_are_refused_here(job, rows, message):
    stage = "redi"
    if "messages" in rows[0]:
        stage, good = "sft", {"messages": make_pairs(1)[0]["prompt"] + make_pairs(1)[0]["chosen"]}
        rows = [good, *rows]
    job.write_rows(rows)
    assert message in job.check(stage=stage, code=2)


def test_rows_with_an_empty_completion_are_left_out_as_training_does(job, tokenizer):
    rows = [job.on_disk(row) for row in make_pairs(4)]
    rows[2]["rejected"][1] = {"role": "assistant", "content": " "}
    job.write_rows(rows)
    found = trace_lengths(job.rows(), tokenizer)
    assert found.problems == exact([row for i, row in enumerate(rows) if i != 2], tokenizer).tolist()


@pytest.mark.parametrize("kind", ["pairs", "positives"])
def test_lengths_of_tokenised_rows_are_the_same(job, tokenizer, kind):
    dataset = Dataset.from_parquet(str(job.data / "*.parquet"))
    found = trace_lengths(job.rows(kind), tokenizer)
    assert tokenized_lengths(*prepare_rows(dataset, (kind,), tokenizer, None), False) == found
    limit = max(n for traces in found.problems for n in traces) - 1
    cut = tokenized_lengths(*prepare_rows(dataset, (kind,), tokenizer, limit), False)
    assert cut.cut + sum(n > limit for traces in cut.problems for n in traces) == sum(
        n > limit for traces in found.problems for n in traces
    )
