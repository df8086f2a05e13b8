"""Whether a run fits: a training step into memory, and all that it writes onto the disk; if not, what to change.

A checkpoint is weights and optimizer state. All checkpoints of a run are kept, or `save_total_limit` of them and one
more, because the oldest is deleted only after the newest is written. The final model comes on top.
"""

import bisect
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from redi.preflight.counting import Activations, Precision
from redi.preflight.memory import GIB, ModelShape, peak_memory
from redi.preflight.plan import Plan
from redi.preflight.recipe import Machine, Model, Recipe
from redi.preflight.report import Report
from redi.runs.errors import UsageError

TIGHT = 0.85  # of the memory; the prediction may be 15 % off
STATE_FILES = 10**6  # scheduler, random states and trainer_state.json are smaller than this
TOKENIZER = 2 * 10**7  # its files are smaller than this


def check_memory(
    report: Report,
    recipe: Recipe,
    machine: Machine,
    model: Model,
    counts: Activations,
    plan: Plan,
    share: float = 1.0,
) -> None:
    """Prints the predicted peak by purpose; a `UsageError` if it does not fit into a share of the memory."""
    load, on_cpu = plan.load, recipe.strategy.on_cpu

    def at(tokens: int) -> dict[str, float]:
        factor = tokens / load.tokens
        part = replace(load, tokens=tokens, scored=int(load.scored * factor), masked=int(load.masked * factor))
        return peak_memory(model.shape, counts, model.precision, recipe.strategy, part, recipe.stage.has_reference)

    parts, memory = at(load.tokens), machine.memory
    if on_cpu:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    total = sum(parts.values()) / GIB
    unit, name_of_unit = (GIB, "GiB") if total >= 1 else (2**20, "MiB")
    for name, size in [*parts.items(), ("total", total * GIB)]:
        if size >= 0.005 * unit:
            report.value(name, f"{size / unit:8.2f} {name_of_unit}")
    if total > share * memory:
        fits = most_tokens(lambda tokens: sum(at(tokens).values()) / GIB <= memory, load.tokens)
        has = f"this machine has {memory:.0f}" if on_cpu else f"each GPU has {memory:g}"
        raise UsageError(f"needs {total:.1f} GiB, but {has}: {remedy(recipe, plan, fits)}")
    if total > TIGHT * memory:
        report.note(f"tight: {total / memory:.0%} of {memory:.0f} GiB, and the prediction may be 15 % off")
    else:
        report.ok(f"fits: {total / memory:.0%} of {memory:.0f} GiB")


def most_tokens(fits: Callable[[int], bool], tokens: int) -> int:
    """The largest number of tokens in a micro-batch that fits; 0 if none does."""
    return bisect.bisect_left(range(1, tokens), True, key=lambda count: not fits(count))


def remedy(recipe: Recipe, plan: Plan, fits: int) -> str:
    """The option to change, the least harmful one that helps, if `fits` tokens of a micro-batch fit."""
    args, kind = recipe.args, recipe.strategy.kind
    can_shard = recipe.strategy.gpus > 1 and kind not in ("zero3", "fsdp2")
    if fits < 512:  # what does not depend on the tokens is too large
        other = "use more GPUs, accelerate_config: zero3_offload, or adapters (lora_r)"
        what = "set accelerate_config: zero3" if can_shard else other
        return f"the model and its optimizer state are too large; {what}"
    if not args.gradient_checkpointing:
        return "set gradient_checkpointing: true"
    rounded = fits // 100 * 100
    if recipe.trains_on_traces and plan.padded:  # the limit is in tokens without pads
        limit = args.max_tokens_per_micro_batch
        if plan.longest <= fits and (limit is None or limit > plan.longest):
            now = f"below {limit}" if limit else "as low as needed"
            return f"set max_tokens_per_micro_batch {now}, but not below the longest trace, {plan.longest}"
    elif recipe.trains_on_traces and plan.longest <= fits:
        return f"set max_tokens_per_micro_batch: {rounded}"
    elif args.per_device_train_batch_size > 1 and not recipe.trains_on_traces:
        count = max(1, args.per_device_train_batch_size * fits // plan.load.tokens)
        if count * plan.load.tokens <= fits * args.per_device_train_batch_size:
            return f"set per_device_train_batch_size: {count}"
    padded_rows = max(1, plan.load.tokens // plan.longest)
    limit = rounded // (padded_rows if plan.padded else 1) // 100 * 100
    zero3 = ", or accelerate_config: zero3" if can_shard else ""
    return f"set max_length: {limit}, which cuts longer traces{zero3}"


def check_disk(report: Report, recipe: Recipe, model: Model, saves: int) -> None:
    """Prints what a run that writes `saves` checkpoints keeps; a `UsageError` if the disk has no room for the rest."""
    limit = recipe.args.save_total_limit
    kept = saves if limit is None else min(saves, limit + 1)
    one, final = checkpoint_bytes(recipe, model.shape, model.precision)
    folder = Path(recipe.args.output_dir)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())  # of a run that resumes
    needed, free = max(0, kept * one + final - written), free_bytes(folder)
    rule = f"all {saves} are kept" if limit is None else f"save_total_limit={limit}, and one more during a save"
    report.value("checkpoints", f"{kept} of {one / 1e9:.2f} GB each (weights and optimizer state): {rule}")
    report.value("final model", f"{final / 1e9:.2f} GB")
    text = f"needs up to {needed / 1e9:.1f} GB{' more' * (written > 0)}, {free / 1e9:.1f} GB are free"
    if needed > free:
        fewer = "" if kept <= 2 else "set a small save_total_limit or a larger save_steps, or "
        raise UsageError(f"output_dir={recipe.args.output_dir} {text}; {fewer}choose another disk")
    report.ok(text)


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path`, which need not exist."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def checkpoint_bytes(recipe: Recipe, shape: ModelShape, precision: Precision) -> tuple[int, int]:
    """Bytes of a checkpoint, and of the final model."""
    w, p, t = precision.weights.itemsize, shape.params, shape.trained
    kind = recipe.strategy.kind
    if kind.startswith("zero"):  # bfloat16 weights; float32 weights and two moments
        weights, state = 2 * p, 12 * t + (0 if kind == "zero3" else 2 * p)  # DeepSpeed writes all weights again
    elif kind == "fsdp2":  # float32 weights and two moments
        weights, state = 4 * p, 8 * t
    else:
        weights, state = w * p, 2 * w * t
    saved = weights if t == p else 4 * t  # adapters alone, in float32
    return saved + state + STATE_FILES + TOKENIZER, weights + TOKENIZER
