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
BALANCED = 20  # the first global batches, whose balance training prints at its start too


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
    balance: float | None  # over ranks, of the ideal; None where the engine does not train
    flops: float
    saves: int  # checkpoints that are written


def make_plan(recipe: Recipe, lengths: TraceLengths, shape: ModelShape, packs: bool = True) -> Plan:
    """The plan of a recipe on traces of these lengths; `packs` tells whether the model's attention supports packing.

    Raises:
        UsageError: a trace does not fit `max_tokens_per_micro_batch`.
    """
    args, limit = recipe.args, recipe.args.max_length or math.inf
    cut = lengths.cut + sum(n > limit for traces in lengths.problems for n in traces)
    problems = [[min(n, limit) for n in traces] for traces in lengths.problems]
    traces = np.array([n for traces in problems for n in traces])
    items, packing = len(problems), getattr(args, "packing", False)
    if packing:
        items = math.ceil(traces.sum() / limit)
    global_batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * recipe.strategy.gpus
    per_epoch = math.ceil(items / global_batch)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    epochs, tokens, squares = steps / per_epoch, float(traces.sum()), float((traces.astype(float) ** 2).sum())
    flops = epochs * training_flops(shape, tokens, squares, traces.size * lengths.prompt)
    balance, masked = None, 0
    if recipe.trains_on_traces:
        (padded, real, row), count, balance = _plan_steps(recipe, problems, shape, global_batch, packs)
        masked = 0 if packs else padded * row
    else:
        per_device, count, longest = args.per_device_train_batch_size, args.gradient_accumulation_steps, traces.max()
        rows = min(per_device, len(problems)) * max(map(len, problems))
        padded = real = int(limit * per_device if packing else rows * longest)
        flash = (recipe.run.attn_implementation or "").startswith("flash_attention")
        masked = 0 if flash or packing else int(padded * longest)
    scored = int(real * (1 - lengths.prompt / traces.mean()))
    return Plan(
        global_batch=global_batch,
        per_epoch=per_epoch,
        steps=steps,
        epochs=epochs,
        tokens=epochs * tokens,
        longest=int(traces.max()),
        cut=cut,
        load=Load(padded, scored, count > 1, signed_sum=recipe.trains_on_traces, masked=masked),
        padded=not (packs and (getattr(args, "padding_free", False) or packing)),
        balance=balance,
        flops=flops * (4 / 3 if recipe.stage.has_reference else 1),
        saves=num_saves(recipe, steps, per_epoch),
    )


def _plan_steps(
    recipe: Recipe, problems: list[list[int]], shape: ModelShape, global_batch: int, packs: bool
) -> tuple[tuple[int, int, int], int, float]:
    """Plans steps of the first epoch as `redi.engine.batching.StepDataset` does.

    Returns:
        The largest micro-batch of the `HEAVIEST` steps: its tokens with and without pads, and its longest trace. Then
        the most micro-batches of a step, and the balance over ranks.
    """
    args, gpus = recipe.args, recipe.strategy.gpus
    order = torch.randperm(len(problems), generator=torch.Generator().manual_seed(args.seed)).tolist()
    batches = [order[i : i + global_batch] for i in range(0, len(order), global_batch)]
    steps = [[n for row in batch for n in problems[row]] for batch in batches]
    cost = step_cost(shape.params / (shape.layers * shape.hidden))

    def plan_of(sizes: list[int]) -> list[list[list[int]]]:
        return plan_step(sizes, cost, gpus, args.gradient_accumulation_steps, args.max_tokens_per_micro_batch)

    def weight(sizes: list[int]) -> float:
        total = sum(sizes) if packs else len(sizes) * max(sizes, default=0)
        return max(total / (gpus * args.gradient_accumulation_steps), *sizes, 0)

    largest, most = (0, 0, 0), 0
    with usage_errors(str, ValueError):  # a trace is longer than max_tokens_per_micro_batch
        for sizes in sorted(steps, key=weight, reverse=True)[:HEAVIEST]:
            plan = plan_of(sizes)
            most = max(most, len(plan[0]))
            for batch in (batch for rank in plan for batch in rank if batch):
                real, row = sum(sizes[i] for i in batch), max(sizes[i] for i in batch)
                largest = max(largest, (real if packs else len(batch) * row, real, row))
        ideal = planned = 0.0
        for sizes in steps[:BALANCED]:  # as in `StepDataset.balance`
            loads = [[sum(cost(sizes[i]) for i in batch) for batch in rank] for rank in plan_of(sizes)]
            ideal += sum(map(sum, loads)) / gpus
            planned += sum(map(max, zip(*loads, strict=True)))
    return largest, most, ideal / planned if planned else 1.0


def num_saves(recipe: Recipe, steps: int, per_epoch: int) -> int:
    """Checkpoints that the run writes, including that of the last step."""
    args = recipe.args
    every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)
    return math.ceil(steps / {"no": math.inf, "epoch": per_epoch}.get(args.save_strategy.value, every))


def report_plan(report: Report, recipe: Recipe, plan: Plan, lengths: TraceLengths) -> None:
    args, traces = recipe.args, np.array([n for traces in lengths.problems for n in traces])
    middle, high = (int(value) for value in np.percentile(traces, (50, 95)))
    mean, longest = traces.mean(), traces.max()
    report.value("trace length", f"mean {mean:,.0f}, median {middle:,}, 95th percentile {high:,}, longest {longest:,}")
    report.value("", f"({lengths.how})")
    factors = f"{recipe.strategy.gpus} x {args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    report.value("global batch", f"{plan.global_batch} = {factors} (processes x per device x accumulation)")
    report.value("steps", f"{plan.steps:,} = {plan.epochs:.3g} x {plan.per_epoch:,} (epochs x steps per epoch)")
    report.value("tokens", f"{plan.tokens:,.0f}, without pads")
    if plan.balance is not None:
        report.value("balance", f"{plan.balance:.2f} of the ideal, over the processes of a step")
    report.value("micro-batch", f"at most {plan.load.tokens:,} tokens at a time" + ", with pads" * plan.padded)
    if plan.cut:
        share = plan.cut / traces.size
        text = f"max_length={args.max_length} cuts {plan.cut:,} of {traces.size:,} traces ({share:.1%})"
        text += ": the model does not learn how they end"
        if share >= 0.5:
            report.fail(f"{text}; raise it, or leave such rows out when the dataset is built")
        elif not report.only_notes:  # training says it as well
            report.note(text)
