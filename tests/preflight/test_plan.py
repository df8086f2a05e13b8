"""The plan of a job: the largest micro-batch and the checkpoints, by hand and against the trainer's own."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import Gemma2Config, Qwen2Config

from redi.engine.batching import StepDataset, step_cost
from redi.preflight.hours import QWEN_1_5B
from redi.preflight.lengths import TraceLengths, trace_lengths
from redi.preflight.memory import Load, shape_of
from redi.preflight.plan import make_plan, num_saves
from redi.preflight.recipe import read_recipe
from redi.text.training_rows import prepare_rows

pytest_plugins = ["helpers.preflight"]


TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("gpus, room", [(1, None), (4, None), (2, 400)])
@pytest.mark.parametrize("stage, kind", [("redi", "pairs"), ("sft", "positives")])
def test_the_largest_micro_batch_is_that_of_training(job, tokenizer, stage, kind, gpus, room, packs):
    job.options |= {"max_tokens_per_micro_batch": room, "per_device_train_batch_size": None if room else 1}
    recipe = read_recipe(job.config(stage), [], gpus)
    found = trace_lengths(job.rows(kind), tokenizer)
    shape = shape_of(Qwen2Config(vocab_size=300, **TINY))
    planned = make_plan(recipe, found, shape, packs)
    problems, _ = prepare_rows(Dataset.from_parquet(str(job.data / "*.parquet")), (kind,), tokenizer, 512)
    args = recipe.args
    largest = 0
    for rank in range(gpus):
        steps = StepDataset(
            problems,
            global_batch_size=8,
            num_micro_batches=args.gradient_accumulation_steps,
            max_tokens=room,
            max_length=512,
            alpha=0.8,
            cost=step_cost(shape.params / (shape.layers * shape.hidden)),
            rank=rank,
            num_ranks=gpus,
            pack=packs,
            pad_token_id=0,
            seed=args.seed,
        )
        largest = max(largest, steps.largest()["model_inputs"]["input_ids"].numel())
    assert planned.load.tokens == largest
    assert planned.steps == len(steps) == 2
    assert planned.tokens == np.sum(found.problems)
    assert planned.balance == pytest.approx(steps.balance())


@pytest.mark.parametrize("stage, tokens", [("simpo", 2 * 2 * 100), ("dpo", 2 * 2 * 100), ("sft", 2 * 100)])
def test_padded_micro_batches_count_their_pads(job, stage, tokens):
    """2 rows a device, the longest of 100 tokens: 2 traces to a pair."""
    job.options |= {"per_device_train_batch_size": 2, "objective": "simpo" if stage == "simpo" else None}
    job.options["padding_free"] = "false" if stage == "sft" else None
    recipe = read_recipe(job.config(stage), [], 4)
    traces = np.array([[40, 60]] * 15 + [[30, 100]])
    traces = traces[:, 1:] if stage == "sft" else traces
    made = make_plan(recipe, TraceLengths(traces.tolist(), 10.0, ""), QWEN_1_5B)
    assert made.load.tokens == tokens and made.load.masked == tokens * 100


GEMMA_2 = Gemma2Config(vocab_size=300, head_dim=16, pad_token_id=0, **TINY)


def test_padded_traces_by_hand(job):
    """Two GPUs with one micro-batch each, of a step of 4 pairs: longest first, each to the one with less to do.

    100 | 90, then 20 | 20; a 10 to the second, which has 110 to 120; of two with equally many tokens the second has
    less to do, since the square of 100 is more: 10 to it, 10 to the first, 10 to it. That makes (100, 20, 10) and
    (90, 20, 10, 10, 10): padded, 3 rows of 100 and 5 rows of 90, of which 140 tokens are real.
    """
    job.options |= {"global_batch_size": 4, "per_device_train_batch_size": 2}
    recipe = read_recipe(job.config(), [], 2)
    traces = [[100, 10], [10, 90], [20, 20], [10, 10]]
    found = TraceLengths(traces, 0.0, "")
    shape = shape_of(GEMMA_2)
    planned = make_plan(recipe, found, shape, packs=False)
    assert planned.padded
    assert planned.load == Load(tokens=450, scored=140, several=False, signed_sum=True, masked=5 * 90**2)
    packed = make_plan(recipe, found, shape)
    assert not packed.padded
    assert packed.load == Load(tokens=140, scored=140, several=False, signed_sum=True)
    assert planned.tokens == packed.tokens == 270


@pytest.mark.parametrize(
    "options, saves",
    [
        ({"save_steps": 200}, 9),  # 1,662 steps: 8 times 200, and the last
        ({"save_steps": 0.25}, 4),
        ({"save_strategy": "epoch", "save_steps": None}, 1),
        ({"save_strategy": "'no'", "save_steps": None}, 0),
    ],
)
def test_saves_of_a_run(job, options, saves):
    job.options |= options
    recipe = read_recipe(job.config(), [], 4)
    assert num_saves(recipe, 1662, 1662) == saves
