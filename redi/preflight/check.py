"""Runs the checks of a job in order and reports them: options, files, tokens, plan, memory, disk."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

from redi.callbacks import why_guard_never_stops, why_rate_jumps
from redi.job import lost_updates
from redi.preflight.counting import count_activations
from redi.preflight.fit import check_disk, check_memory
from redi.preflight.hours import report_hours
from redi.preflight.lengths import TraceLengths, trace_lengths
from redi.preflight.plan import Plan, make_plan, report_plan
from redi.preflight.recipe import Machine, Model, Recipe, Rows, open_model, open_rows, read_recipe, why_padded
from redi.preflight.report import Report
from redi.preflight.tokens import check_row
from redi.runs.checkpoints import planned_steps
from redi.runs.errors import UsageError


def preflight(config: Path, overrides: list[str], machine: Machine, write: Callable[[str], None] = print) -> None:
    """Checks a recipe, with overrides as its train.sh takes them, and prints the report, a line at a time.

    Raises:
        UsageError: the job would be wasted; names all reasons that were found.
    """
    report = Report(write)
    recipe = read_recipe(config, overrides, machine.gpus)
    gpus = f"{recipe.strategy.gpus} GPU{'s' * (recipe.strategy.gpus > 1)} of {machine.memory:g} GiB"
    where = "the CPU" if recipe.strategy.on_cpu else f"{gpus}, accelerate configuration {recipe.accelerate}"
    write(f"Preflight of {config} on {where}")
    report.title("Options and files")
    report.ok(f"{len(recipe.given)} options set, all valid for stage {recipe.name}")
    if recipe.is_finished:
        report.note(f"output_dir={recipe.args.output_dir} holds this run, finished: the job would do nothing")
    if recipe.args.cpu_note:
        report.note(recipe.args.cpu_note)
    model, rows = check_inputs(report, recipe)
    if model is not None and rows is not None:
        lengths = report.attempt(trace_lengths, rows, model.tokenizer, recipe.leaves_out_negatives)
        if lengths is not None:
            check_plan(report, recipe, machine, model, lengths)
    report.refuse()
    write("\nNo problem found.")


def check_inputs(report: Report, recipe: Recipe) -> tuple[Model | None, Rows | None]:
    """Opens model and rows, None where they cannot be used, and compares one row in training and evaluation."""
    model, rows = report.attempt(open_model, recipe), report.attempt(open_rows, recipe)
    if model is not None:
        report.ok(f"model {recipe.run.model_name_or_path}: config, tokenizer and weights found")
        flash = (model.attention or "").startswith("flash_attention")
        if flash and importlib.util.find_spec("flash_attn") is None:
            report.note(f"attn_implementation={model.attention} needs the package flash-attn, not installed here")
        report.attempt(check_updates, recipe, model)
    if rows is not None:
        report.ok(f"dataset {recipe.run.dataset_name}: {rows.num_rows:,} {rows.kind} ({rows.note})")
    if model is not None and rows is not None:
        report.title("Tokens of one row, as training and evaluation see them")
        report.attempt(check_row, report, recipe, model, rows)
    return model, rows


def check_plan(
    report: Report, recipe: Recipe, machine: Machine, model: Model, lengths: TraceLengths, with_memory: bool = True
) -> None:
    """Checks what the run will do with traces of these lengths: positions, disk and, if asked, memory."""
    report.title("Plan")
    padding = why_padded(recipe, model.config)
    plan = report.attempt(make_plan, recipe, lengths, model.shape, padding is None)
    if plan is None:
        return
    report_plan(report, recipe, plan, lengths)
    report_hours(report, recipe, machine, plan.flops)
    if not report.only_notes:  # training says these as well
        notes = notes_on_length(recipe, plan)
        notes += [f"traces are padded, not packed: {padding}"] if padding is not None else []
        if plan.padded and model.attention == "eager":  # packed traces never run on it
            notes.append("eager attention keeps all scores, heads * length^2 a trace: not in the memory below")
        for note in notes:
            report.note(note)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)
    if plan.longest > positions:
        report.fail(
            f"the longest trace has {plan.longest:,} tokens, but the model has max_position_embeddings={positions:,}; "
            f"make the model folder with prepare_base_model.py, or set max_length={positions}"
        )
    if with_memory:
        on_cpu = recipe.strategy.on_cpu
        counts = count_activations(
            model.config, model.precision, recipe.args.gradient_checkpointing, recipe.lora, on_cpu
        )
        report.title("Memory at the peak" + ("" if on_cpu else ", per GPU"))
        report.attempt(check_memory, report, recipe, machine, model, counts, plan)
    report.title("Disk")
    report.attempt(check_disk, report, recipe, model, plan.saves)


def notes_on_length(recipe: Recipe, plan: Plan) -> list[str]:
    """What the number of steps means for the collapse guard, and for a run that resumes."""
    notes = [why_guard_never_stops(recipe.args, plan.steps, plan.epochs)]
    if recipe.newest is not None and not recipe.is_finished:
        done = int(recipe.newest.name.split("-")[1])
        notes.append(why_rate_jumps(recipe.args, planned_steps(recipe.newest), plan.steps, done))
    return [note for note in notes if note is not None]


def check_updates(recipe: Recipe, model: Model) -> None:
    """Refuses half-precision weights that are the only ones the optimizer has. On the CPU they are for tests."""
    strategy, dtype = recipe.strategy, model.precision.weights
    if not strategy.on_cpu and strategy.kind in ("none", "ddp") and recipe.lora is None and dtype.itemsize <= 2:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(f"accelerate_config={recipe.accelerate}: {lost_updates(name, recipe.args.learning_rate)}")
