"""The plan of a run: steps, tokens, the largest micro-batch, floating-point operations and hours.

FLOPs are those that the objective needs, per trace of n tokens of which s are scored:

    6 * body parameters * n + 6 V H s + 6 L A n^2     (A = heads * head size; causal attention)

with 4 instead of 6 where only adapters are trained, and a third more for DPO's reference model. Pads, and what
gradient checkpointing computes again, are not in them: they lower the utilisation. Hours = FLOPs / (GPUs * peak *
utilisation).

The default utilisation is what the paper's Table 5 implies for the same stage, on 8 A100 with a dense bfloat16 peak of
312 TFLOP/s and Qwen2.5-Math-1.5B. The paper gives no mean lengths. ASSUMED are the means of the lengths that
scripts/bench/bench_balance.py draws; the implied utilisation is nearly proportional to them.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from redi.engine.batching import plan_step, step_cost
from redi.preflight.lengths import TraceLengths
from redi.preflight.memory import Load, ModelShape
from redi.preflight.recipe import Recipe
from redi.runs.errors import UsageError
from redi.stages import STAGES

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
    "SFT 3 epochs": ("sft", 3, 77_629, 8.0),
    "SFT 5 epochs": ("sft", 5, 77_629, 13.0),
    "DPO": ("dpo", 1, 53_175, 5 + 10 / 60),
    "SimPO": ("simpo", 1, 53_175, 4 + 50 / 60),
    "REDI": ("redi", 1, 53_175, 4 + 10 / 60),
}


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        rows, problems: of the dataset; a problem is a pair, or the traces of one prompt.
        global_batch: problems of a step. per_epoch: steps of an epoch. steps: of the run. epochs: of the run.
        tokens: of the whole run, without pads. longest: trace, once cut. cut: traces longer than max_length.
        load: the largest micro-batch. padded: whether pads are in it. flops: of the whole run.
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
    padded: bool
    flops: float
    saves: int


def make_plan(recipe: Recipe, lengths: TraceLengths, shape: ModelShape, packs: bool = True) -> Plan:
    """The plan of a recipe on traces of these lengths.

    Args:
        recipe, lengths: of the run.
        shape: of the model.
        packs: whether its attention can be packed, see `engine.attention.enable_packing`; REDI pads where it cannot.

    Raises:
        UsageError: a trace does not fit `max_tokens_per_micro_batch`.
    """
    args, limit = recipe.args, recipe.args.max_length
    traces = lengths.traces[:, :1] if getattr(args, "alpha", 1.0) == 0 else lengths.traces
    cut = 0 if limit is None else int((traces > limit).sum())
    traces = traces if limit is None else traces.clip(max=limit)
    problems = int(lengths.problems.max()) + 1
    items = _num_packs(traces, recipe) if recipe.name == "sft" and args.packing else problems
    per_device, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    global_batch = per_device * accumulation * recipe.strategy.gpus
    per_epoch = math.ceil(items / global_batch)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    epochs = steps / per_epoch
    flops = epochs * training_flops(
        shape, float(traces.sum()), float((traces.astype(float) ** 2).sum()), traces.size * lengths.prompt
    )
    flops *= 4 / 3 if recipe.stage.has_reference else 1
    load = _largest(recipe, traces, lengths, shape, global_batch, packs)
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
        padded=not (packs and (getattr(args, "padding_free", False) or getattr(args, "packing", False))),
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
    stage, epochs, num_rows, hours = TABLE_5[row]
    sides = ["chosen"] if stage == "sft" else ["chosen", "rejected"]
    means = [ASSUMED["prompt"] + ASSUMED[side] for side in sides]
    flops = epochs * training_flops(
        QWEN_1_5B,
        num_rows * sum(means),
        num_rows * sum(SQUARE_RATIO * mean**2 for mean in means),
        num_rows * len(means) * ASSUMED["prompt"],
    )
    flops *= 4 / 3 if STAGES[stage].has_reference else 1
    return flops, flops / (8 * A100_TFLOPS * 1e12 * hours * 3600)


def row_of(recipe: Recipe) -> str:
    """The row of Table 5 that a recipe is compared with."""
    if recipe.name == "sft":
        return "SFT 5 epochs" if recipe.args.num_train_epochs >= 4 else "SFT 3 epochs"
    if recipe.name == "dpo":
        return "DPO"
    return "SimPO" if recipe.args.objective == "simpo" else "REDI"


def _num_packs(traces: np.ndarray, recipe: Recipe) -> int:
    return math.ceil(traces.sum() / recipe.args.max_length)


def _largest(
    recipe: Recipe, traces: np.ndarray, lengths: TraceLengths, shape: ModelShape, global_batch: int, packs: bool
) -> Load:
    """The largest micro-batch of a GPU: exact where the order does not matter, else of the first epoch's order."""
    args, per_device = recipe.args, recipe.args.per_device_train_batch_size
    several = args.gradient_accumulation_steps > 1
    scored = 1 - lengths.prompt / traces.mean()
    if recipe.name == "sft":
        if args.packing:
            tokens = args.max_length * per_device
        elif args.padding_free:
            order = np.random.default_rng(args.seed).permutation(traces[:, 0])
            tokens = int(np.add.reduceat(order, np.arange(0, len(order), per_device)).max())
        else:
            return _padded(recipe, min(per_device, len(traces)), int(traces.max()), scored, several)
        return Load(tokens, int(tokens * scored), several, signed_sum=False)
    if not recipe.trains_on_traces:
        rows = traces.shape[1] * min(per_device, len(traces))
        return _padded(recipe, rows, int(traces.max()), scored, several)
    return _largest_of_traces(recipe, traces, lengths, shape, global_batch, packs, scored)


def _padded(recipe: Recipe, rows: int, longest: int, scored: float, several: bool) -> Load:
    flash = (recipe.run.attn_implementation or "").startswith("flash_attention")
    tokens = rows * longest
    return Load(tokens, int(tokens * scored), several, signed_sum=False, masked=0 if flash else tokens * longest)


HEAVIEST = 200  # global batches whose micro-batches are planned


def _largest_of_traces(
    recipe: Recipe,
    traces: np.ndarray,
    lengths: TraceLengths,
    shape: ModelShape,
    global_batch: int,
    packs: bool,
    scored: float,
) -> Load:
    """The micro-batch with most tokens, planned as `engine.batching.StepDataset` does; a share `scored` is scored.

    Of the first epoch's global batches the `HEAVIEST` are planned, by their tokens or their longest trace.
    """
    args, gpus = recipe.args, recipe.strategy.gpus
    step_of = _steps_of(lengths.problems, args.seed, global_batch)
    longest = np.zeros(step_of.max() + 1)
    np.maximum.at(longest, step_of, traces.max(axis=1))
    num_rows = np.bincount(step_of)
    totals = np.bincount(step_of, weights=traces.sum(axis=1)) if packs else num_rows * traces.shape[1] * longest
    accumulation = args.gradient_accumulation_steps
    heaviest = np.argsort(-np.maximum(totals / (gpus * accumulation), longest))[:HEAVIEST]
    cost = step_cost(shape.params / (shape.layers * shape.hidden))
    order, ends = np.argsort(step_of, kind="stable"), num_rows.cumsum()
    largest, count = (0, 0, 0), accumulation
    for step in heaviest:
        sizes = traces[order[ends[step] - num_rows[step] : ends[step]]].flatten().tolist()
        try:
            plan = plan_step(sizes, cost, gpus, accumulation, args.max_tokens_per_micro_batch)
        except ValueError as error:
            raise UsageError(str(error)) from error
        count = max(count, len(plan[0]))
        for batch in (batch for rank in plan for batch in rank if batch):
            real, row = sum(sizes[i] for i in batch), max(sizes[i] for i in batch)
            largest = max(largest, (real if packs else len(batch) * row, real, row))
    tokens, real, row = largest
    masked = 0 if packs else tokens * row
    return Load(tokens, int(real * scored), count > 1, signed_sum=True, masked=masked)


def _steps_of(problems: np.ndarray, seed: int, global_batch: int) -> np.ndarray:
    """The step of the first epoch that each row belongs to, `(rows,)`."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(int(problems.max()) + 1, generator=generator).numpy()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[problems] // global_batch


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


def table_5() -> list[str]:
    """What each row of the paper's Table 5 implies, one line each."""
    lengths = ", ".join(f"{name} {tokens:,}" for name, tokens in ASSUMED.items())
    lines = [
        f"The paper's Table 5: 8 A100 of {A100_TFLOPS:g} TFLOP/s, Qwen2.5-Math-1.5B; assumed mean tokens: {lengths}",
        f"{'':14}{'rows':>9}{'epochs':>8}{'hours':>7}{'FLOPs':>10}{'utilisation':>13}",
    ]
    for name, (_, epochs, rows, hours) in TABLE_5.items():
        flops, utilisation = implied_utilisation(name)
        lines.append(f"{name:14}{rows:9,}{epochs:8}{hours:7.2f}{flops:10.2e}{utilisation:13.1%}")
    return lines
