"""Writes the `config.yaml` of a new recipe: the paper's settings, made to fit a model, its data and a machine."""

import math
from collections.abc import Iterator
from pathlib import Path

import yaml

from redi.data.training_data import scan_rows
from redi.preflight.counting import count_activations
from redi.preflight.fit import TIGHT, check_memory
from redi.preflight.lengths import TraceLengths, kind_of, trace_lengths
from redi.preflight.plan import make_plan
from redi.preflight.recipe import Machine, Model, open_model, open_rows, read_recipe, why_padded
from redi.preflight.report import Report
from redi.runs.errors import UsageError
from redi.text.training_rows import kind_of as kind_of_columns

STAGE_OF = {"positives": "sft", "pairs": "redi", "traces": "redi"}
FOLDERS = {"sft": "positives", "redi": "pairs"}  # of a --data folder that holds both
# The paper's: epochs, rows of an optimizer step, learning rate; and the rate of the LoRA recipes, which is not.
PAPER = {"sft": (3, 128, "5e-5", "2e-4"), "redi": (1, 32, "1e-6", "1e-5")}
MIN_STEPS = 20  # of an epoch, for which the global batch is made smaller than the paper's
SMALLEST_BATCH = 4
TOKENS = [2**k for k in range(16, 9, -1)]  # of a micro-batch
CPU_TOKENS = 4096  # a larger micro-batch is no faster on a CPU

Setting = tuple[str, str, str]  # key, value as YAML, comment


def find_data(data: str, stage: str | None) -> dict[str, str]:
    """The datasets to train on, by stage: `data` itself, or its folders `positives` and `pairs`.

    Raises:
        UsageError: there is no such dataset, or it is not for the stage; or it may be for either and none is given.
    """
    found = {name: str(Path(data, folder)) for name, folder in FOLDERS.items() if Path(data, folder).is_dir()}
    if found:
        if stage is not None and stage not in found:
            raise UsageError(f"--stage {stage}: --data {data} holds no folder {FOLDERS[stage]}")
        return {name: path for name, path in found.items() if stage in (None, name)}
    columns = scan_rows(data, "train").schema.names
    wanted = [kind for kind, of in STAGE_OF.items() if stage in (None, of)]
    kind = kind_of_columns(columns, tuple(wanted), f"--data {data}")
    if stage is None and kind == "positives" and {"chosen", "rejected"} <= set(columns):
        raise UsageError(f"--data {data} has both positives and pairs; choose --stage sft or --stage redi")
    return {STAGE_OF[kind]: data}


def write_config(path: Path, places: dict[str, str], machine: Machine | None, start: str) -> list[str]:
    """Writes STAGE/RUN/config.yaml with the first settings that fit the machine: full training, else LoRA.

    Args:
        places: values of model_name_or_path, dataset_name and output_dir.
        machine: None is the CPU.
        start: a model like that in `places`, which may not be trained yet.

    Returns:
        The options (`--key value`) with which `preflight` checks the recipe as if `start` were its model.
    """
    stage, overrides = path.parent.parent.name, ["--model_name_or_path", start]
    base = [(key, _as_yaml(value), "") for key, value in places.items()]
    gpus = machine.gpus if machine else 1
    _write(path, stage, base + _on(machine))
    recipe = read_recipe(path, overrides, gpus)
    model, rows = open_model(recipe), open_rows(recipe)
    kind = kind_of(recipe, rows.table.schema.names)
    lengths = trace_lengths(rows, kind, model.tokenizer)
    where = "the CPU" if machine is None else f"{gpus} GPU{'s' * (gpus > 1)} of {machine.memory:g} GiB"
    title = f"{rows.num_rows:,} {kind} on {where}"
    for settings in _candidates(stage, machine, model, lengths):
        _write(path, title, base + settings)
        if _fits(path, overrides, machine or Machine(1, math.inf), lengths):
            break
    return overrides


def _candidates(stage: str, machine: Machine | None, model: Model, lengths: TraceLengths) -> Iterator[list[Setting]]:
    """Settings from what learns and runs best to what needs the least memory."""
    longest, rows = int(lengths.traces.max()), int(lengths.problems.max()) + 1
    positions = model.config.get_text_config().max_position_embeddings
    limit = min(positions, -(-longest // 64) * 64)
    epochs, batch, full_rate, lora_rate = PAPER[stage]
    most = TOKENS[0] if machine else CPU_TOKENS
    for method, rate in _methods(machine, full_rate, lora_rate):
        for tokens in [tokens for tokens in TOKENS if limit < tokens <= most] + [limit]:
            yield [
                *_on(machine),
                *method,
                ("num_train_epochs", str(epochs), "the paper's final model had 5" if stage == "sft" else ""),
                *_batch(rows, batch, machine.gpus if machine else 1),
                ("max_tokens_per_micro_batch", str(tokens), "bounds the memory"),
                ("max_length", str(limit), _about_length(longest, positions)),
                *([("alpha", "0.8", "weight of the rejected traces")] if stage == "redi" else []),
                ("learning_rate", rate, "the paper's" if rate == full_rate else "a common one for LoRA, not tuned"),
                ("warmup_steps", "0.1", "below 1, it is a share of the steps"),
                ("weight_decay", "1e-4", ""),
                ("logging_steps", "1" if rows * epochs < 100 * batch else "10", ""),
                ("save_steps", "100", ""),
                ("save_total_limit", "2", "checkpoints; the newest is enough to resume from"),
                ("seed", "42", ""),
            ]


def _on(machine: Machine | None) -> list[Setting]:
    if machine is None:
        return [("use_cpu", "true", ""), ("bf16", "false", "slow on a CPU"), ("dtype", "float32", "")]
    return [("dtype", "bfloat16", "")]


def _methods(machine: Machine | None, full: str, lora: str) -> list[tuple[list[Setting], str]]:
    """Settings, and their learning rate."""
    checkpointing = [("gradient_checkpointing", "true", "less memory, more time")]
    if machine is None:
        return [([("gradient_checkpointing", "false", "true needs less memory, and more time")], full)] + [
            (checkpointing, full)
        ]
    sharded = [("zero2", "keeps float32 weights; spreads the optimizer's state over GPUs")]
    if machine.gpus > 1:
        sharded.append(("zero3", "as zero2, and spreads the weights too"))
    adapters = [("lora_r", "64", "rank of adapters: all weights do not fit this memory")]
    adapters.append(("accelerate_config", "ddp", "one model per GPU"))
    return [([("accelerate_config", name, why)], full) for name, why in sharded] + [(adapters, lora)]


def _batch(rows: int, paper: int, gpus: int) -> list[Setting]:
    """The largest global batch up to the paper's with which an epoch has some steps."""
    sizes = [gpus * 2**k for k in range(8) if SMALLEST_BATCH <= gpus * 2**k <= paper] or [gpus]
    size = max((size for size in sizes if rows / size >= MIN_STEPS), default=sizes[0])
    comment = "rows of an optimizer step" + (f"; the paper's is {paper}" if size != paper else ", the paper's")
    return [("global_batch_size", str(size), comment)]


def _about_length(longest: int, positions: int) -> str:
    if longest <= positions:
        return f"the longest trace has {longest:,} tokens, so none is cut"
    return f"the model's positions; the longest trace has {longest:,} tokens and is cut"


def _fits(path: Path, overrides: list[str], machine: Machine, lengths: TraceLengths) -> bool:
    recipe = read_recipe(path, overrides, machine.gpus)
    model = open_model(recipe)
    on_cpu, checkpointing = recipe.strategy.on_cpu, recipe.args.gradient_checkpointing
    counts = count_activations(model.config, model.precision, checkpointing, recipe.lora, on_cpu)
    plan = make_plan(recipe, lengths, model.shape, why_padded(recipe, model.config) is None)
    some = Machine(machine.gpus, TIGHT * machine.memory)  # the prediction may be wrong
    report = Report(lambda line: None)
    report.attempt(check_memory, report, recipe, some, model, counts, plan)
    return not report.problems


def _write(path: Path, title: str, settings: list[Setting]) -> None:
    lines = [f"# {title}. Written by new_recipe.py; change what you like, docs/training.md explains the options."]
    lines += [f"{key}: {value}" + f"  # {comment}" * bool(comment) for key, value, comment in settings]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_yaml(value: str) -> str:
    """Text as it can stand in YAML, quoted only where it must be."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]
