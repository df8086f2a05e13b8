"""The plan of a run: steps, tokens, the largest micro-batch, checkpoints, floating-point operations."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from redi.engine.batching import plan_step, step_cost
from redi.preflight.hours import training_flops
from redi.preflight.lengths import TraceLengths
from redi.preflight.memory import Load, ModelShape
from redi.preflight.recipe import Recipe
from redi.preflight.report import Report
from redi.runs.errors import usage_errors

HEAVIEST = 200  # global batches whose micro-batches are planned


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    global_batch: int  # problems of a step; a problem is a pair, or all traces of a prompt
    per_epoch: int  # steps
    steps: int
    epochs: float
    tokens: float  # without pads
    longest: int  # tokens of the longest trace, after cutting
    cut: int  # traces
    load: Load  # the largest micro-batch
    padded: bool  # whether it has pads
    flops: float
    saves: int  # checkpoints that are written


def make_plan(recipe: Recipe, lengths: TraceLengths, shape: ModelShape, packs: bool = True) -> Plan:
    """The plan of a recipe on traces of these lengths; `packs` tells whether the model's attention supports packing.

    Raises:
        UsageError: a trace does not fit `max_tokens_per_micro_batch`.
    """
    args, limit = recipe.args, recipe.args.max_length
    traces = lengths.traces[:, :1] if getattr(args, "leaves_out_negatives", False) else lengths.traces
    cut = 0 if limit is None else int((traces > limit).sum())
    traces = traces if limit is None else traces.clip(max=limit)
    items, packing = int(lengths.problems.max()) + 1, getattr(args, "packing", False)
    if packing:
        items = math.ceil(traces.sum() / limit)
    global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * recipe.strategy.gpus
    per_epoch = math.ceil(items / global_batch)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    epochs, tokens, squares = steps / per_epoch, float(traces.sum()), float((traces.astype(float) ** 2).sum())
    flops = epochs * training_flops(shape, tokens, squares, traces.size * lengths.prompt)
    return Plan(
        global_batch=global_batch,
        per_epoch=per_epoch,
        steps=steps,
        epochs=epochs,
        tokens=epochs * tokens,
        longest=int(traces.max()),
        cut=cut,
        load=_largest(recipe, traces, lengths, shape, global_batch, packs),
        padded=not (packs and (getattr(args, "padding_free", False) or packing)),
        flops=flops * (4 / 3 if recipe.stage.has_reference else 1),
        saves=num_saves(recipe, steps, per_epoch),
    )


def _largest(
    recipe: Recipe, traces: np.ndarray, lengths: TraceLengths, shape: ModelShape, global_batch: int, packs: bool
) -> Load:
    """The largest micro-batch of a GPU: exact, or that of the first epoch if the order of the rows matters."""
    args, per_device = recipe.args, recipe.args.per_device_train_batch_size
    count, masked = args.gradient_accumulation_steps, 0
    if recipe.trains_on_traces:
        tokens, real, row, count = _largest_of_traces(recipe, traces, lengths, shape, global_batch, packs)
        masked = 0 if packs else tokens * row
    elif getattr(args, "packing", False):
        tokens = real = args.max_length * per_device
    else:
        longest = int(traces.max())
        tokens = real = traces.shape[1] * min(per_device, len(traces)) * longest
        flash = (recipe.run.attn_implementation or "").startswith("flash_attention")
        masked = 0 if flash else tokens * longest
    scored = int(real * (1 - lengths.prompt / traces.mean()))
    return Load(tokens, scored, count > 1, signed_sum=recipe.trains_on_traces, masked=masked)


def _largest_of_traces(
    recipe: Recipe, traces: np.ndarray, lengths: TraceLengths, shape: ModelShape, global_batch: int, packs: bool
) -> tuple[int, int, int, int]:
    """Of the largest micro-batch of the `HEAVIEST` steps of the first epoch, planned as in `StepDataset`: tokens with
    and without pads, its longest trace, and the most micro-batches of a step."""
    args, gpus, accumulation = recipe.args, recipe.strategy.gpus, recipe.args.gradient_accumulation_steps
    order = torch.randperm(int(lengths.problems.max()) + 1, generator=torch.Generator().manual_seed(args.seed))
    step_of = np.argsort(order.numpy())[lengths.problems] // global_batch  # of the first epoch, for each row
    longest = np.zeros(step_of.max() + 1)
    np.maximum.at(longest, step_of, traces.max(axis=1))
    num_rows = np.bincount(step_of)
    totals = np.bincount(step_of, weights=traces.sum(axis=1)) if packs else num_rows * traces.shape[1] * longest
    heaviest = np.argsort(-np.maximum(totals / (gpus * accumulation), longest))[:HEAVIEST]
    cost = step_cost(shape.params / (shape.layers * shape.hidden))
    order, ends = np.argsort(step_of, kind="stable"), num_rows.cumsum()
    largest, count = (0, 0, 0), accumulation
    for step in heaviest:
        sizes = traces[order[ends[step] - num_rows[step] : ends[step]]].flatten().tolist()
        with usage_errors(str, ValueError):  # a trace is longer than max_tokens_per_micro_batch
            plan = plan_step(sizes, cost, gpus, accumulation, args.max_tokens_per_micro_batch)
        count = max(count, len(plan[0]))
        for batch in (batch for rank in plan for batch in rank if batch):
            real, row = sum(sizes[i] for i in batch), max(sizes[i] for i in batch)
            largest = max(largest, (real if packs else len(batch) * row, real, row))
    return *largest, count


def num_saves(recipe: Recipe, steps: int, per_epoch: int) -> int:
    """Checkpoints that the run writes, including that of the last step."""
    args = recipe.args
    every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)
    return math.ceil(steps / {"no": math.inf, "epoch": per_epoch}.get(args.save_strategy.value, every))


def report_plan(report: Report, recipe: Recipe, plan: Plan, lengths: TraceLengths) -> None:
    args, traces = recipe.args, lengths.traces
    middle, high = (int(value) for value in np.percentile(traces, (50, 95)))
    mean, longest = traces.mean(), traces.max()
    report.value("trace length", f"mean {mean:,.0f}, median {middle:,}, 95th percentile {high:,}, longest {longest:,}")
    report.value("", f"({lengths.how})")
    factors = f"{recipe.strategy.gpus} x {args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    report.value("global batch", f"{plan.global_batch} = {factors} (processes x per device x accumulation)")
    report.value("steps", f"{plan.steps:,} = {plan.epochs:.3g} x {plan.per_epoch:,} (epochs x steps per epoch)")
    report.value("tokens", f"{plan.tokens:,.0f}, without pads")
    report.value("micro-batch", f"at most {plan.load.tokens:,} tokens on one GPU" + ", with pads" * plan.padded)
    if plan.cut:
        share = plan.cut / traces.size
        text = f"max_length={args.max_length} cuts {plan.cut:,} of {traces.size:,} traces ({share:.1%})"
        (report.note if share < 0.5 else report.fail)(f"{text}: the model does not learn how they end")
