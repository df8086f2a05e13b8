"""All checks of a recipe, one after the other, and the report that they make."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redi.preflight import disk
from redi.preflight.counting import Activations, Precision, count_activations
from redi.preflight.lengths import LENGTH_COLUMNS, TraceLengths, kind_of, trace_lengths
from redi.preflight.memory import GIB, ModelShape, peak_memory, shape_of
from redi.preflight.plan import A100_TFLOPS, Plan, implied_utilisation, make_plan, row_of, scaled
from redi.preflight.recipe import Model, Recipe, Rows, open_model, open_rows, read_recipe, why_padded
from redi.preflight.tokens import check_tokens, side_by_side, train_rendering
from redi.runs.errors import UsageError

TIGHT = 0.85  # of the memory; the prediction may be 15 % off
TRIED = 64  # rows among which one that is not cut is looked for


@dataclass(frozen=True)
class Machine:
    """What the job gets: GPUs, GiB of memory each, dense peak TFLOP/s each, and the share of it that is used."""

    gpus: int
    memory: float
    tflops: float = A100_TFLOPS
    utilisation: float | None = None


class Report:
    """Prints findings as they come, and keeps the problems."""

    def __init__(self, write: Callable[[str], None]):
        self.write = write
        self.problems: list[str] = []

    def title(self, text: str) -> None:
        self.write(f"\n{text}")

    def line(self, mark: str, text: str) -> None:
        self.write(f"  {mark:5} {text}")

    def ok(self, text: str) -> None:
        self.line("ok", text)

    def note(self, text: str) -> None:
        self.line("note", text)

    def fail(self, error: str) -> None:
        self.problems.append(error)
        self.line("FAIL", error)

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result, or None where it refuses."""
        try:
            return function(*args)
        except UsageError as error:
            self.fail(" ".join(str(error).split()))
            return None


def preflight(
    config: Path,
    overrides: list[str],
    machine: Machine,
    write: Callable[[str], None] = print,
) -> None:
    """Checks a recipe and prints what was found.

    Args:
        config: the recipe's `config.yaml`.
        overrides: of its options, as its training script takes them.
        machine: what the job will run on.
        write: prints a line.

    Raises:
        UsageError: the job would be wasted; names all reasons that were found.
    """
    report = Report(write)
    recipe = read_recipe(config, overrides, machine.gpus)
    where = "the CPU" if recipe.strategy.on_cpu else f"{recipe.strategy.gpus} GPU(s) of {machine.memory:g} GiB"
    write(f"preflight of {config} on {where}, {recipe.accelerate}")
    report.title("options and files")
    report.ok(f"{len(recipe.given)} options of the stage {recipe.name}")
    if recipe.is_finished:
        report.note(f"output_dir {recipe.args.output_dir} holds this run, finished: the job would do nothing")
    model, rows = report.attempt(open_model, recipe), report.attempt(open_rows, recipe)
    if model is not None:
        report.ok(f"model {recipe.run.model_name_or_path}: configuration, tokenizer, weights")
        _note_attention(report, model)
    kind = None if rows is None else report.attempt(kind_of, recipe, rows.table.schema.names)
    if kind is not None:
        report.ok(f"dataset {recipe.run.dataset_name}: {rows.num_rows:,} {kind}, {rows.note}")
    if model is not None and kind is not None:
        _check_content(report, recipe, machine, model, rows, kind)
    if report.problems:
        raise UsageError("; ".join(report.problems))
    write("\nnothing found that would waste the job")


def _note_attention(report: Report, model: Model) -> None:
    if (model.attention or "").startswith("flash_attention") and importlib.util.find_spec("flash_attn") is None:
        report.note(f"attn_implementation={model.attention} needs the package flash-attn, which is not installed here")


def _check_content(report: Report, recipe: Recipe, machine: Machine, model: Model, rows: Rows, kind: str) -> None:
    """What needs model and rows: tokens, plan, memory, hours, disk."""
    report.title("tokens")
    report.attempt(_check_row, report, recipe, model, rows)
    report.title("plan")
    lengths = report.attempt(trace_lengths, rows, kind, model.tokenizer)
    if lengths is None:
        return
    shape = shape_of(model.config, recipe.lora)
    padding = why_padded(recipe, model)
    plan = report.attempt(make_plan, recipe, lengths, shape, padding is None)
    if plan is None:
        return
    _report_plan(report, recipe, plan, lengths)
    if padding is not None:
        report.note(f"traces are padded, not packed: {padding}")
    if plan.padded and model.attention == "eager":  # packed traces never run on it
        report.note("eager attention keeps all scores, heads * length^2 a trace: not in the memory below")
    report.attempt(_check_positions, model, plan)
    precision = precision_of(recipe, model)
    report.attempt(check_updates, recipe, precision)
    counts = count_activations(
        model.config, precision, recipe.args.gradient_checkpointing, recipe.lora, recipe.strategy.on_cpu
    )
    _report_hours(report, recipe, machine, plan)
    report.title("memory at the peak" + ("" if recipe.strategy.on_cpu else ", per GPU"))
    report.attempt(_check_memory, report, recipe, machine, shape, counts, precision, plan)
    report.title("disk")
    report.attempt(_check_disk, report, recipe, shape, precision, plan)


# --- tokens ------------------------------------------------------------------------------------------------------


def _check_row(report: Report, recipe: Recipe, model: Model, rows: Rows) -> None:
    limit = recipe.args.max_length
    columns = [name for name in rows.table.schema.names if name not in LENGTH_COLUMNS]
    row = min(rows.first(TRIED, columns), key=lambda row: len(str(row)))
    trained = train_rendering(recipe, model, row)
    if limit is not None and len(trained.ids) >= limit:
        raise UsageError(
            f"max_length={limit} cuts the shortest of the first {TRIED} rows, of {len(trained.ids)} tokens or more: "
            "its end, eos with it, is never learnt; raise it"
        )
    problem = _problem(row)
    shown = side_by_side(model.tokenizer, trained, problem)
    for line in shown:
        report.line("", line)
    for mark, text in check_tokens(model.tokenizer, trained, problem):
        report.line(mark, text)


def _problem(row: dict[str, Any]) -> str:
    """The user's message of a row."""
    messages = row.get("messages") or row.get("chosen")
    if messages is None or messages[0]["role"] == "assistant":
        messages = row["prompt"]
    if isinstance(messages, str):
        return messages
    return next(message["content"] for message in messages if message["role"] == "user")


# --- plan --------------------------------------------------------------------------------------------------------


def _report_plan(report: Report, recipe: Recipe, plan: Plan, lengths: TraceLengths) -> None:
    args = recipe.args
    traces = lengths.traces
    middle, high = (int(value) for value in np.percentile(traces, (50, 95)))
    report.line("", f"lengths     {lengths.how}")
    report.line(
        "", f"traces      mean {traces.mean():,.0f}, median {middle:,}, 95 % up to {high:,}, longest {traces.max():,}"
    )
    factors = f"{recipe.strategy.gpus} x {args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    report.line("", f"batch       {plan.global_batch} = {factors} (processes x per device x accumulation)")
    report.line("", f"steps       {plan.steps:,} in {plan.epochs:.3g} epoch(s) of {plan.per_epoch:,}")
    report.line("", f"tokens      {plan.tokens / 1e6:,.1f} million, pads not counted")
    report.line("", f"micro-batch at most {plan.load.tokens:,} tokens on one GPU" + ", pads counted" * plan.padded)
    if plan.cut:
        share = plan.cut / traces.size
        text = f"max_length={args.max_length} cuts {plan.cut:,} of {traces.size:,} traces ({share:.1%})"
        (report.note if share < 0.5 else report.fail)(f"{text}: their ends are not learnt")


def _check_positions(model: Model, plan: Plan) -> None:
    positions = model.config.get_text_config().max_position_embeddings
    if plan.longest > positions:
        raise UsageError(
            f"the longest trace has {plan.longest:,} tokens, the model max_position_embeddings={positions:,}; make "
            f"the model folder with scripts/prepare_base_model.py, or set max_length={positions}"
        )


def precision_of(recipe: Recipe, model: Model) -> Precision:
    name = recipe.run.dtype or (recipe.args.model_init_kwargs or {}).get("dtype") or "float32"
    dtype = model.config.dtype if name == "auto" else getattr(torch, str(name).removeprefix("torch."))
    return Precision(dtype or torch.float32, autocast=bool(recipe.args.bf16 or recipe.args.fp16))


def check_updates(recipe: Recipe, precision: Precision) -> None:
    """Refuses weights in half precision that are all that the optimizer has, which on the CPU is a choice for tests.

    bfloat16 numbers are 2^-8 apart, relatively, and AdamW changes a weight by about the learning rate.

    Raises:
        UsageError: no float32 weights are kept.
    """
    strategy = recipe.strategy
    if strategy.on_cpu or strategy.kind not in ("none", "ddp") or recipe.lora or precision.weights.itemsize > 2:
        return
    dtype = str(precision.weights).removeprefix("torch.")
    rate = recipe.args.learning_rate
    raise UsageError(
        f"dtype={dtype} on {recipe.accelerate}, without DeepSpeed or FSDP: no float32 weights are kept, and changes "
        f"as small as learning_rate={rate:g} makes are lost in rounding; remove dtype (bf16: true computes in "
        "bfloat16 all the same), or use configs/accelerate/zero2.yaml"
    )


def _report_hours(report: Report, recipe: Recipe, machine: Machine, plan: Plan) -> None:
    if recipe.strategy.on_cpu:
        report.line("", f"hours       not predicted on the CPU; {plan.flops:.2g} FLOPs")
        return
    row = row_of(recipe)
    utilisation = machine.utilisation or implied_utilisation(row)[1]
    source = "" if machine.utilisation else f", as Table 5 implies for {row}"
    hours = plan.flops / (recipe.strategy.gpus * machine.tflops * 1e12 * utilisation) / 3600
    report.line(
        "",
        f"hours       {hours:.1f} = {plan.flops:.2g} FLOPs on {recipe.strategy.gpus} x {machine.tflops:g} TFLOP/s at "
        f"{utilisation:.1%}{source}",
    )


# --- memory and disk ---------------------------------------------------------------------------------------------


def _check_memory(
    report: Report,
    recipe: Recipe,
    machine: Machine,
    shape: ModelShape,
    counts: Activations,
    precision: Precision,
    plan: Plan,
) -> None:
    def at(tokens: int) -> dict[str, float]:
        load = scaled(plan.load, tokens)
        return peak_memory(shape, counts, precision, recipe.strategy, load, recipe.stage.has_reference)

    parts = at(plan.load.tokens)
    total = sum(parts.values()) / GIB
    unit, name_of_unit = (GIB, "GiB") if total >= 1 else (2**20, "MiB")
    for name, size in [*parts.items(), ("sum", total * GIB)]:
        if size >= 0.005 * unit:
            report.line("", f"{name:15}{size / unit:8.2f} {name_of_unit}")
    memory = _memory_of_cpu() if recipe.strategy.on_cpu else machine.memory
    if total > memory:
        fits = _most_tokens(lambda tokens: sum(at(tokens).values()) / GIB <= memory, plan.load.tokens)
        raise UsageError(
            f"{total:.1f} GiB are needed per GPU, --gpu-memory is {memory:g}: {_remedy(recipe, plan, fits)}"
            if not recipe.strategy.on_cpu
            else f"{total:.1f} GiB are needed, this machine has {memory:.0f}: {_remedy(recipe, plan, fits)}"
        )
    if total > TIGHT * memory:
        report.note(f"tight: {total / memory:.0%} of {memory:.0f} GiB, and the prediction may be 15 % off")
    else:
        report.ok(f"{total / memory:.0%} of {memory:.0f} GiB")


def _memory_of_cpu() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(lines[0].split()[1]) / 2**20


def _most_tokens(fits: Callable[[int], bool], tokens: int) -> int:
    """The most tokens of a micro-batch that fit; 0 where none do."""
    low, high = 0, tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _remedy(recipe: Recipe, plan: Plan, fits: int) -> str:
    """The option to change, the least harmful that helps first.

    Args:
        recipe, plan: of the run.
        fits: tokens of a micro-batch that fit.
    """
    args, kind = recipe.args, recipe.strategy.kind
    if fits < 512:  # what does not depend on the tokens is too large
        cause = "the weights and what belongs to them are too large"
        if kind in ("none", "ddp", "zero1", "zero2") and recipe.strategy.gpus > 1:
            return f"{cause}; use --accelerate-config configs/accelerate/zero3.yaml"
        return f"{cause}; use more GPUs, zero3_offload, or adapters (lora_r)"
    if not args.gradient_checkpointing:
        return "set gradient_checkpointing: true"
    rounded = fits // 100 * 100
    on_traces = recipe.trains_on_traces
    if on_traces and plan.padded:  # the room is in tokens without pads
        room = args.max_tokens_per_micro_batch
        if plan.longest <= fits and (room is None or room > plan.longest):
            return f"set max_tokens_per_micro_batch lower than {room or 'now'}, at least to {plan.longest}"
    elif on_traces and plan.longest <= fits:
        return f"set max_tokens_per_micro_batch: {rounded}"
    if args.per_device_train_batch_size > 1 and not on_traces:
        count = max(1, args.per_device_train_batch_size * fits // plan.load.tokens)
        if count * plan.load.tokens <= fits * args.per_device_train_batch_size:
            return f"set per_device_train_batch_size: {count}"
    padded_rows = max(1, plan.load.tokens // plan.longest)
    limit = rounded // (padded_rows if plan.padded else 1) // 100 * 100
    zero3 = "" if kind in ("zero3", "fsdp2") or recipe.strategy.gpus == 1 else ", or use zero3"
    return f"set max_length: {limit}, which cuts longer traces{zero3}"


def _check_disk(report: Report, recipe: Recipe, shape: ModelShape, precision: Precision, plan: Plan) -> None:
    needed, kept = disk.needed_bytes(recipe, shape, precision, plan.saves)
    one, final = disk.checkpoint_bytes(recipe, shape, precision)
    free = disk.free_bytes(Path(recipe.args.output_dir))
    limit = recipe.args.save_total_limit
    rule = f"all {plan.saves} that are written"
    if limit is not None:
        rule = f"save_total_limit={limit}, and one more meanwhile"
    report.line("", f"{kept} checkpoint(s) of {one / 1e9:.2f} GB (weights and optimizer state): {rule}")
    report.line("", f"the final model of {final / 1e9:.2f} GB")
    text = f"{needed / 1e9:.1f} GB at most at a time, {free / 1e9:.1f} GB are free"
    if needed > free:
        fewer = "" if kept <= 2 else "set a small save_total_limit or a larger save_steps, or "
        raise UsageError(f"output_dir={recipe.args.output_dir}: {text}; {fewer}choose another disk")
    report.ok(text)
