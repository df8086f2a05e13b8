"""The plan of a run: steps, tokens, the largest micro-batch, floating-point operations and hours.

FLOPs are those that the objective needs, per trace of n tokens of which s are scored:

    6 * body parameters * n + 6 V H s + 6 L A n^2     (A = heads * head size; causal attention)

with 4 instead of 6 where only adapters are trained, and a third more for DPO's reference model. Pads, and what
gradient checkpointing computes again, are not in them: they lower the utilisation. Hours = FLOPs / (GPUs * peak *
utilisation).

The default utilisation is what the paper's Table 5 implies for the same stage, on 8 A100 with a dense bfloat16 peak of
312 TFLOP/s and Qwen2.5-Math-1.5B. The paper gives no mean lengths. ASSUMED are the means of the lengths that
scripts/bench_balance.py draws; the implied utilisation is nearly proportional to them.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from redi.batching import plan_step, step_cost
from redi.preflight.lengths import Lengths
from redi.preflight.memory import Load, ModelShape
from redi.preflight.recipe import Recipe
from redi.runs import UsageError

A100_TFLOPS = 312.0
QWEN_1_5B = ModelShape(
    params=1_543_714_304,
    trained=1_543_714_304,
    layer=46_797_824,
    layers=28,
    hidden=1536,
    vocab=151_936,
    attention=1536,
    tied=True,
)
# Mean tokens of prompts and of chosen and rejected completions, and E[n^2] / E[n]^2 of the traces' lengths.
ASSUMED = {"prompt": 420, "chosen": 4100, "rejected": 5250}
SQUARE_RATIO = 1.45
# https://huggingface.co/papers/2505.24850, Table 5: stage, epochs, rows of an epoch, hours on 8 A100.
TABLE_5 = {
    "SFT 3 epochs": ("train_sft", 3, 77_629, 8.0),
    "SFT 5 epochs": ("train_sft", 5, 77_629, 13.0),
    "DPO": ("train_dpo", 1, 53_175, 5 + 10 / 60),
    "SimPO": ("train_redi", 1, 53_175, 4 + 50 / 60),
    "REDI": ("train_redi", 1, 53_175, 4 + 10 / 60),
}


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        rows, problems: of the dataset; a problem is a pair, or the traces of one prompt.
        global_batch: problems of a step. per_epoch: steps of an epoch. steps: of the run. epochs: of the run.
        tokens: of the whole run, without pads. longest: trace, once cut. cut: traces longer than max_length.
        load: the largest micro-batch. flops: of the whole run.
        saves: checkpoints that the run writes.
    """

    rows: int
    problems: int
    global_batch: int
    per_epoch: int
    steps: int
    epochs: float
    tokens: float
    longest: int
    cut: int
    load: Load
    flops: float
    saves: int


def make_plan(recipe: Recipe, lengths: Lengths, shape: ModelShape) -> Plan:
    """The plan of a recipe on traces of these lengths.

    Raises:
        UsageError: a trace does not fit `max_tokens_per_micro_batch`.
    """
    args, limit = recipe.args, recipe.args.max_length
    traces = lengths.traces[:, :1] if getattr(args, "alpha", 1.0) == 0 else lengths.traces
    cut = 0 if limit is None else int((traces > limit).sum())
    traces = traces if limit is None else traces.clip(max=limit)
    problems = int(lengths.problems.max()) + 1
    items = _num_packs(traces, recipe) if recipe.script == "train_sft" and args.packing else problems
    per_device, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    global_batch = per_device * accumulation * recipe.strategy.gpus
    per_epoch = math.ceil(items / global_batch)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    epochs = steps / per_epoch
    flops = epochs * training_flops(
        shape, float(traces.sum()), float((traces.astype(float) ** 2).sum()), traces.size * lengths.prompt
    )
    flops *= 4 / 3 if recipe.script == "train_dpo" else 1
    load = _largest(recipe, traces, lengths, shape, global_batch)
    return Plan(
        rows=len(traces),
        problems=problems,
        global_batch=global_batch,
        per_epoch=per_epoch,
        steps=steps,
        epochs=epochs,
        tokens=epochs * float(traces.sum()),
        longest=int(traces.max()),
        cut=cut,
        load=load,
        flops=flops,
        saves=_num_saves(recipe, steps, per_epoch),
    )


def training_flops(shape: ModelShape, tokens: float, squares: float, prompts: float) -> float:
    """FLOPs of training on traces, see the module.

    Args:
        shape: of the model.
        tokens, squares: sums over the traces of their lengths and of the squares of those.
        prompts: sum of the prompts' lengths, which are not scored.
    """
    factor = 6 if shape.trained == shape.params else 4
    products = shape.body * tokens + shape.vocab * shape.hidden * max(0.0, tokens - prompts)
    return factor * products + 6 * shape.layers * shape.attention * squares


def implied_utilisation(row: str) -> tuple[float, float]:
    """(FLOPs, share of the peak) that a row of Table 5 implies under `ASSUMED`."""
    script, epochs, num_rows, hours = TABLE_5[row]
    sides = ["chosen"] if script == "train_sft" else ["chosen", "rejected"]
    means = [ASSUMED["prompt"] + ASSUMED[side] for side in sides]
    flops = epochs * training_flops(
        QWEN_1_5B,
        num_rows * sum(means),
        num_rows * sum(SQUARE_RATIO * mean**2 for mean in means),
        num_rows * len(means) * ASSUMED["prompt"],
    )
    flops *= 4 / 3 if script == "train_dpo" else 1
    return flops, flops / (8 * A100_TFLOPS * 1e12 * hours * 3600)


def row_of(recipe: Recipe) -> str:
    """The row of Table 5 that a recipe is compared with."""
    if recipe.script == "train_sft":
        return "SFT 5 epochs" if recipe.args.num_train_epochs >= 4 else "SFT 3 epochs"
    if recipe.script == "train_dpo":
        return "DPO"
    return "SimPO" if recipe.args.objective == "simpo" else "REDI"


def _num_packs(traces: np.ndarray, recipe: Recipe) -> int:
    return math.ceil(traces.sum() / recipe.args.max_length)


def _largest(recipe: Recipe, traces: np.ndarray, lengths: Lengths, shape: ModelShape, global_batch: int) -> Load:
    """The largest micro-batch of a GPU: exact where the order does not matter, else of the first epoch's order."""
    args, per_device = recipe.args, recipe.args.per_device_train_batch_size
    several = args.gradient_accumulation_steps > 1
    scored = 1 - lengths.prompt / traces.mean()
    if recipe.script == "train_sft":
        if args.packing:
            tokens = args.max_length * per_device
        elif args.padding_free:
            order = np.random.default_rng(args.seed).permutation(traces[:, 0])
            tokens = int(np.add.reduceat(order, np.arange(0, len(order), per_device)).max())
        else:
            return _padded(recipe, min(per_device, len(traces)), int(traces.max()), scored, several)
        return Load(tokens, int(tokens * scored), several, signed_sum=False)
    if not getattr(recipe.args, "padding_free", False):
        rows = traces.shape[1] * min(per_device, len(traces))
        return _padded(recipe, rows, int(traces.max()), scored, several)
    tokens, count = _largest_pack(recipe, traces, lengths, shape, global_batch)
    return Load(tokens, int(tokens * scored), count > 1, signed_sum=True)


def _padded(recipe: Recipe, rows: int, longest: int, scored: float, several: bool) -> Load:
    flash = (recipe.run.attn_implementation or "").startswith("flash_attention")
    tokens = rows * longest
    return Load(tokens, int(tokens * scored), several, signed_sum=False, masked=0 if flash else tokens * longest)


HEAVIEST = 200  # global batches whose micro-batches are planned


def _largest_pack(
    recipe: Recipe, traces: np.ndarray, lengths: Lengths, shape: ModelShape, global_batch: int
) -> tuple[int, int]:
    """Tokens of the largest packed micro-batch, planned as `redi.batching.StepDataset` does, and micro-batches a step.

    Of the first epoch's global batches the `HEAVIEST` are planned, by their tokens or their longest trace.
    """
    args, gpus = recipe.args, recipe.strategy.gpus
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(int(lengths.problems.max()) + 1, generator=generator).numpy()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    step_of = place[lengths.problems] // global_batch
    totals = np.bincount(step_of, weights=traces.sum(axis=1))
    longest = np.zeros(len(totals))
    np.maximum.at(longest, step_of, traces.max(axis=1))
    accumulation = args.gradient_accumulation_steps
    heaviest = np.argsort(-np.maximum(totals / (gpus * accumulation), longest))[:HEAVIEST]
    cost = step_cost(shape.params / (shape.layers * shape.hidden))
    room, most, count = args.max_tokens_per_micro_batch, 0, accumulation
    for step in heaviest:
        sizes = traces[step_of == step].flatten().tolist()
        try:
            plan = plan_step(sizes, cost, gpus, accumulation, room)
        except ValueError as error:
            raise UsageError(str(error)) from error
        most = max(most, max(sum(sizes[i] for i in batch) for rank in plan for batch in rank))
        count = max(count, len(plan[0]))
    return most, count


def _num_saves(recipe: Recipe, steps: int, per_epoch: int) -> int:
    """Checkpoints that the run writes, the last step's included."""
    args = recipe.args
    strategy = args.save_strategy.value
    if strategy == "no":
        return 0
    if strategy == "epoch":
        return math.ceil(steps / per_epoch)
    every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)
    return math.ceil(steps / every)


def scaled(load: Load, tokens: int) -> Load:
    """The same micro-batch with fewer or more tokens."""
    factor = tokens / load.tokens
    return replace(load, tokens=tokens, scored=int(load.scored * factor), masked=int(load.masked * factor))
