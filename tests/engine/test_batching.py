"""Problems to traces to micro-batches: cases worked by hand, and properties that hold for every plan."""

import random

import pytest
import torch
from datasets import Dataset

from redi.engine.batching import StepDataset, Trace, collate, plan_step, step_cost, trace_lengths, traces_of

PAIR = {"prompt_ids": [1, 2], "chosen_ids": [3, 4, 5], "rejected_ids": [6]}


def linear(num_tokens: int) -> int:
    return num_tokens


def test_a_pair_is_two_traces_of_share_one():
    chosen, rejected = traces_of(PAIR, 7, None, alpha=0.8)
    assert chosen == Trace([1, 2, 3, 4, 5], 2, 1.0, True, 7)
    assert rejected == Trace([1, 2, 6], 2, 1.0, False, 7)
    assert (chosen.num_scored, rejected.num_scored) == (3, 1)


def test_alpha_zero_leaves_negatives_out_and_max_length_cuts_the_end():
    assert traces_of(PAIR, 0, 4, alpha=0.0) == [Trace([1, 2, 3, 4], 2, 1.0, True, 0)]


def test_several_traces_share_their_side_by_weight():
    problem = {
        "prompt_ids": [1],
        "completion_ids": [[2], [3], [4]],
        "labels": [True, False, False],
        "weights": [5.0, 1.0, 3.0],
    }
    # the only positive has all of its side; the negatives 1 / (1 + 3) and 3 / (1 + 3)
    assert [trace.share for trace in traces_of(problem, 0, None, 0.8)] == [1.0, 0.25, 0.75]


def test_the_cost_is_twice_linear_at_the_crossover():
    cost = step_cost(crossover=1000)
    assert cost(1000) == 2 * 1000
    assert cost(100) == pytest.approx(110)


def test_a_plan_worked_by_hand():
    # Two ranks, one micro-batch each, longest first: 9 | 7, then 5 to the second (12), 4 to the first (13)
    assert plan_step([4, 9, 5, 7], linear, num_ranks=2, num_micro_batches=1) == [[[0, 1]], [[2, 3]]]


def test_max_tokens_makes_more_micro_batches():
    # 25 tokens, at most 10 per micro-batch: 9 and 7 get one each, 5 + 4 share one
    plan = plan_step([4, 9, 5, 7], linear, num_ranks=1, num_micro_batches=1, max_tokens=10)
    assert sorted(plan[0]) == [[0, 2], [1], [3]]
    with pytest.raises(ValueError, match="a trace of 9 tokens does not fit max_tokens_per_micro_batch=8"):
        plan_step([4, 9], linear, 1, 1, max_tokens=8)


@pytest.mark.parametrize(
    "num_ranks, num_micro_batches, max_tokens", [(1, 1, None), (8, 1, None), (2, 4, 4000), (3, 2, 2500)]
)
def test_every_plan_has_each_trace_once_within_max_tokens_on_equal_ranks(num_ranks, num_micro_batches, max_tokens):
    rng = random.Random(0)
    for _ in range(50):
        lengths = [min(int(rng.lognormvariate(5.5, 0.8)) + 10, 2000) for _ in range(rng.randint(0, 64))]
        plan = plan_step(lengths, step_cost(5000), num_ranks, num_micro_batches, max_tokens)
        assert sorted(i for rank in plan for batch in rank for i in batch) == list(range(len(lengths)))
        assert (
            len({len(rank) for rank in plan}) == 1
        )  # collectives inside a micro-batch need equal numbers on all ranks
        if max_tokens is not None:
            assert all(sum(lengths[i] for i in batch) <= max_tokens for rank in plan for batch in rank)


def test_a_packed_micro_batch_by_hand():
    batch = collate([Trace([1, 2, 3, 4], 2, 1.0, True, 0), Trace([5, 6, 7], 1, 1.0, False, 0)], True, pad_token_id=0)
    inputs = batch["model_inputs"]
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert inputs["cu_seq_lens_q"].tolist() == [0, 4, 7]
    assert inputs["max_length_q"] == 4
    assert batch["targets"].tolist() == [3, 4, 6, 7]
    assert batch["positions"].tolist() == [1, 2, 4, 5]  # one before each target
    assert batch["segments"].tolist() == [0, 0, 1, 1]


def test_a_padded_micro_batch_by_hand():
    """If packing is impossible: right-padded rows, with the mask from lengths, because pad is token 4 here."""
    batch = collate([Trace([1, 2, 3, 4], 2, 1.0, True, 0), Trace([5, 6, 4], 1, 1.0, False, 0)], False, pad_token_id=4)
    assert batch["model_inputs"]["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 4, 4]]
    assert batch["model_inputs"]["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["targets"].tolist() == [3, 4, 6, 4]
    assert batch["positions"].tolist() == [1, 2, 4, 5]


def steps(num_ranks: int, rank: int, n: int = 10, **options) -> StepDataset:
    rows = [
        {"prompt_ids": [1] * (1 + i % 3), "chosen_ids": [2] * (2 + i), "rejected_ids": [3] * (9 - i % 5)}
        for i in range(n)
    ]
    defaults = dict(
        global_batch_size=4,
        num_micro_batches=1,
        max_tokens=None,
        max_length=None,
        alpha=0.8,
        cost=linear,
        pack=True,
        pad_token_id=0,
        seed=42,
    )
    return StepDataset(Dataset.from_list(rows), **{**defaults, **options}, rank=rank, num_ranks=num_ranks)


def test_ranks_share_the_same_global_batches_in_the_same_order():
    one, two = steps(1, 0), [steps(2, rank) for rank in (0, 1)]
    assert len(one) == 3  # 4 + 4 + 2 problems
    assert one.rows(0) == two[0].rows(0) == two[1].rows(0)
    for step in range(3):
        whole = sum(float(batch["coefficients"].abs().sum()) for batch in one[step])
        split = sum(float(batch["coefficients"].abs().sum()) for rank in two for batch in rank[step])
        assert split == pytest.approx(whole)


def test_the_coefficients_are_those_of_eq_5():
    """-1/|y_w| and +alpha/|y_l| over the number of problems, which is 2 in the last, smaller global batch."""
    for chosen_weight in (1.0, 0.1):
        (batch,) = steps(1, 0, chosen_weight=chosen_weight)[2]
        assert batch["num_problems"] == 2
        expected = torch.where(batch["is_chosen"], -chosen_weight, 0.8) / batch["num_scored"] / 2
        torch.testing.assert_close(batch["coefficients"], expected)


def positives(num_ranks: int = 1, rank: int = 0, lengths: tuple[int, ...] = (5, 9, 4, 20), **options) -> StepDataset:
    """Rows of two prompt tokens each; all in one global batch."""
    rows = [{"input_ids": [1] * n, "labels": [-100] * 2 + [1] * (n - 2)} for n in lengths]
    fixed = dict(num_micro_batches=1, max_tokens=None, max_length=None, alpha=0.0, cost=linear, pack=True)
    fixed |= dict(pad_token_id=0, seed=0, global_batch_size=len(rows))
    return StepDataset(Dataset.from_list(rows), **fixed | options, rank=rank, num_ranks=num_ranks)


def test_each_scored_token_of_positives_has_the_same_coefficient():
    """3 + 7 + 2 + 18 = 30 scored tokens on two ranks; with max_length=8, 3 + 6 + 2 + 6 = 17."""
    for options, total in (({}, 30), ({"max_length": 8}, 17)):
        batches = [batch for rank in (0, 1) for batch in positives(2, rank, **options)[0]]
        assert sum(len(batch["targets"]) for batch in batches) == total
        for batch in batches:
            assert batch["coefficients"].tolist() == pytest.approx([-1 / total] * len(batch["coefficients"]))


def test_balance_is_ideal_over_planned_time():
    """38 tokens: on two ranks 20 and 18, ideally 19 each; on four ranks 20, 9, 5 and 4, ideally 9.5 each."""
    assert positives(1).balance() == 1
    assert positives(2).balance() == pytest.approx(19 / 20)
    assert positives(4).balance() == pytest.approx(9.5 / 20)
    assert "balance over ranks: 0.47 of the ideal" in positives(4).describe()


@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("max_length", [None, 4])
def test_lengths_are_those_of_the_traces(alpha, max_length):
    """Problems with 1, 3 and 0 negatives and one positive each. Steps are planned from lengths alone."""
    labels = [[False, True], [True, False, False, False], [True]]
    rows = [
        {
            "prompt_ids": [1] * (i + 1),
            "completion_ids": [[2] * (2 + i + k) for k in range(len(sides))],
            "labels": sides,
            "weights": [1.0] * len(sides),
        }
        for i, sides in enumerate(labels)
    ]
    expected = [[len(t.token_ids) for t in traces_of(row, 0, max_length, alpha)] for row in rows]
    first = [4] if alpha == 0 else [3, 4]  # prompt 1; completions 2 (a negative) and 3 tokens
    assert expected[0] == first
    assert trace_lengths(Dataset.from_list(rows), max_length, alpha) == expected


def test_a_trace_that_does_not_fit_is_refused_at_once():
    with pytest.raises(ValueError, match="a trace of 13 tokens does not fit max_tokens_per_micro_batch=12"):
        steps(1, 0, max_tokens=12)  # row 8 has a prompt of 3 and a completion of 10


def test_epochs_differ_and_seeds_repeat():
    dataset = steps(1, 0)
    first = dataset.order
    dataset.set_epoch(1)
    assert dataset.order != first and sorted(dataset.order) == list(range(10))
    assert steps(1, 0).order == first


def test_a_rank_without_traces_runs_a_micro_batch_of_weight_zero():
    dataset = steps(4, 3, n=1, alpha=0.0)  # one positive on four ranks
    (batch,) = dataset[0]
    assert batch["coefficients"].tolist() == [0.0] and batch["shares"].tolist() == [0.0]
