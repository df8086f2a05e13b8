"""Whether a training step fits into memory; if it does not, which option to change."""

from collections.abc import Callable
from pathlib import Path

from redi.preflight.counting import Activations
from redi.preflight.memory import GIB, peak_memory
from redi.preflight.plan import Plan, scaled
from redi.preflight.recipe import Machine, Model, Recipe
from redi.preflight.report import Report
from redi.runs.errors import UsageError

TIGHT = 0.85  # of the memory; the prediction may be 15 % off
MIB = 2**20


def check_memory(
    report: Report, recipe: Recipe, machine: Machine, model: Model, counts: Activations, plan: Plan
) -> None:
    """Prints the predicted peak by purpose.

    Raises:
        UsageError: it does not fit.
    """

    def at(tokens: int) -> dict[str, float]:
        load = scaled(plan.load, tokens)
        return peak_memory(model.shape, counts, model.precision, recipe.strategy, load, recipe.stage.has_reference)

    parts, on_cpu = at(plan.load.tokens), recipe.strategy.on_cpu
    total, memory = sum(parts.values()) / GIB, _memory_of_cpu() if on_cpu else machine.memory
    unit, name_of_unit = (GIB, "GiB") if total >= 1 else (MIB, "MiB")
    for name, size in [*parts.items(), ("total", total * GIB)]:
        if size >= 0.005 * unit:
            report.value(name, f"{size / unit:8.2f} {name_of_unit}")
    if total > memory:
        fits = most_tokens(lambda tokens: sum(at(tokens).values()) / GIB <= memory, plan.load.tokens)
        has = f"this machine has {memory:.0f}" if on_cpu else f"--gpu-memory is {memory:g}"
        raise UsageError(f"needs {total:.1f} GiB, but {has}: {remedy(recipe, plan, fits)}")
    if total > TIGHT * memory:
        report.note(f"tight: {total / memory:.0%} of {memory:.0f} GiB, and the prediction may be 15 % off")
    else:
        report.ok(f"fits: {total / memory:.0%} of {memory:.0f} GiB")


def _memory_of_cpu() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(lines[0].split()[1]) / 2**20


def most_tokens(fits: Callable[[int], bool], tokens: int) -> int:
    """The largest number of tokens in a micro-batch that fits; 0 if none does."""
    low, high = 0, tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def remedy(recipe: Recipe, plan: Plan, fits: int) -> str:
    """The option to change: the least harmful one that helps.

    Args:
        recipe, plan: of the run.
        fits: tokens of a micro-batch that fit.
    """
    args, kind = recipe.args, recipe.strategy.kind
    if fits < 512:  # what does not depend on the tokens is too large
        cause = "the model and its optimizer state are too large"
        if kind in ("none", "ddp", "zero1", "zero2") and recipe.strategy.gpus > 1:
            return f"{cause}; set accelerate_config: zero3"
        return f"{cause}; use more GPUs, accelerate_config: zero3_offload, or adapters (lora_r)"
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
    if args.per_device_train_batch_size > 1 and not recipe.trains_on_traces:
        count = max(1, args.per_device_train_batch_size * fits // plan.load.tokens)
        if count * plan.load.tokens <= fits * args.per_device_train_batch_size:
            return f"set per_device_train_batch_size: {count}"
    padded_rows = max(1, plan.load.tokens // plan.longest)
    limit = rounded // (padded_rows if plan.padded else 1) // 100 * 100
    zero3 = "" if kind in ("zero3", "fsdp2") or recipe.strategy.gpus == 1 else ", or accelerate_config: zero3"
    return f"set max_length: {limit}, which cuts longer traces{zero3}"
