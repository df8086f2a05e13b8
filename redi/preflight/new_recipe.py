"""Writes the `config.yaml` of a new recipe: the paper's settings, made to fit a model, its data and a machine."""

import math
from pathlib import Path

import yaml

from redi.data.training_data import scan_rows
from redi.preflight.counting import count_activations
from redi.preflight.fit import TIGHT, check_memory
from redi.preflight.lengths import TraceLengths, trace_lengths
from redi.preflight.plan import make_plan
from redi.preflight.recipe import Machine, open_model, open_rows, read_recipe, why_padded
from redi.preflight.report import Report
from redi.runs.errors import UsageError
from redi.text.training_rows import kind_of

STAGE_OF = {"positives": "sft", "pairs": "redi", "traces": "redi"}
FOLDERS = {"sft": "positives", "redi": "pairs"}  # of a --data folder that holds both
# The paper's epochs, rows of an optimizer step and learning rate; a common learning rate of LoRA.
PAPER = {"sft": (3, 128, "5e-5", "2e-4"), "redi": (1, 32, "1e-6", "1e-5")}
MIN_STEPS, SMALLEST_BATCH = 20, 4  # of an epoch: the global batch shrinks for a small dataset
MICRO_BATCHES = [2**k for k in range(16, 9, -1)]  # in tokens, the largest first
CPU_TOKENS = 4096  # a larger micro-batch is no faster on a CPU

Setting = tuple[str, str, str]  # key, value as YAML, comment


def find_data(data: str, stage: str | None) -> dict[str, str]:
    """The datasets to train on, by stage: `data` itself, or its folders `positives` and `pairs`.

    Raises:
        UsageError: there is no such dataset, or none for the stage; or it is for both stages and none is chosen.
    """
    found = {name: str(Path(data, folder)) for name, folder in FOLDERS.items() if Path(data, folder).is_dir()}
    if found:
        if stage is not None and stage not in found:
            raise UsageError(f"--stage {stage}: --data {data} has no folder {FOLDERS[stage]}")
        return {name: path for name, path in found.items() if stage in (None, name)}
    columns = scan_rows(data, "train").schema.names
    wanted = tuple(kind for kind, of in STAGE_OF.items() if stage in (None, of))
    kind = kind_of(columns, wanted, f"--data {data}")
    if stage is None and kind == "positives" and {"chosen", "rejected"} <= set(columns):
        raise UsageError(f"--data {data} has both positives and pairs; choose --stage sft or --stage redi")
    return {STAGE_OF[kind]: data}


def write_config(path: Path, places: dict[str, str], machine: Machine, start: str) -> list[str]:
    """Writes STAGE/RUN/config.yaml with the first settings that fit the machine: full training, else LoRA.

    Args:
        places: values of model_name_or_path, dataset_name and output_dir.
        machine: without GPUs (0) it is the CPU.
        start: a model like that in `places`, which need not be trained yet.

    Returns:
        The options (`--key value`) with which `preflight` checks the recipe as if `start` were its model.
    """
    stage, overrides = path.parent.parent.name, ["--model_name_or_path", start]
    base = [(key, _as_yaml(value), "") for key, value in places.items()]
    methods = _methods(machine, stage)
    _write(path, stage, base + methods[0])
    recipe = read_recipe(path, overrides, machine.gpus)
    model, rows = open_model(recipe), open_rows(recipe)
    lengths = trace_lengths(rows, model.tokenizer)
    longest, positions = max(map(max, lengths.problems)), model.config.get_text_config().max_position_embeddings
    limit = min(positions, -(-longest // 64) * 64)
    length = f"the longest trace has {longest:,} tokens"
    length += ", so none is cut" if longest <= positions else ", but the model has no more positions"
    gpus = f"{machine.gpus} GPU{'s' * (machine.gpus > 1)} of {machine.memory:g} GiB"
    title = f"{rows.num_rows:,} {rows.kind} on {gpus if machine.gpus else 'the CPU'}"
    sizes = [size for size in MICRO_BATCHES if limit < size <= (MICRO_BATCHES[0] if machine.gpus else CPU_TOKENS)]

    def write(method: list[Setting], tokens: int) -> None:
        limits = [("max_tokens_per_micro_batch", str(tokens), "bounds the memory"), ("max_length", str(limit), length)]
        _write(path, title, base + method + limits + _schedule(stage, len(lengths.problems), machine.gpus or 1))

    for method in methods:
        write(method, limit)
        if fitting := _fitting(path, overrides, machine, lengths, [*sizes, limit]):
            write(method, fitting)
            break
    return overrides


def _fitting(
    path: Path, overrides: list[str], machine: Machine, lengths: TraceLengths, sizes: list[int]
) -> int | None:
    """The first of these sizes of a micro-batch with which the recipe fits into memory, with room for an error."""
    recipe = read_recipe(path, overrides, machine.gpus)
    model, report = open_model(recipe), Report(lambda line: None)
    on_cpu, checkpointing = recipe.strategy.on_cpu, recipe.args.gradient_checkpointing
    counts = count_activations(model.config, model.precision, checkpointing, recipe.lora, on_cpu)
    packs = why_padded(recipe, model.config) is None
    for size in sizes:
        recipe.args.max_tokens_per_micro_batch = size
        plan = make_plan(recipe, lengths, model.shape, packs)
        report.problems.clear()
        report.attempt(check_memory, report, recipe, machine, model, counts, plan, TIGHT)
        if not report.problems:
            return size
    return None


def _methods(machine: Machine, stage: str) -> list[list[Setting]]:
    """Ways to train, the best first; each needs less memory than the one before."""
    full = ("learning_rate", PAPER[stage][2], "the paper's")
    if machine.gpus == 0:
        base = [("use_cpu", "true", ""), ("bf16", "false", "slow on a CPU"), ("dtype", "float32", ""), full]
        faster = ("gradient_checkpointing", "false", "true needs less memory, and more time")
        return [[*base, faster], [*base, ("gradient_checkpointing", "true", "less memory, more time")]]
    shards = {"zero2": "keeps float32 weights; spreads the optimizer's state over GPUs"}
    if machine.gpus > 1:
        shards["zero3"] = "as zero2, and spreads the weights too"
    methods = [[("accelerate_config", name, why), full] for name, why in shards.items()]
    adapters = [("lora_r", "64", "rank of adapters: full training needs more memory")]
    adapters.append(("accelerate_config", "ddp", "one model per GPU"))
    adapters.append(("learning_rate", PAPER[stage][3], "a common one for LoRA, not tuned"))
    return [[("dtype", "bfloat16", ""), *method] for method in [*methods, adapters]]


def _schedule(stage: str, rows: int, gpus: int) -> list[Setting]:
    epochs, paper, *_ = PAPER[stage]
    batch = _batch(rows, paper, gpus)
    return [
        *([("alpha", "0.8", "weight of the rejected traces; the paper's")] if stage == "redi" else []),
        ("num_train_epochs", str(epochs), "the paper's final model had 5" if stage == "sft" else "the paper's"),
        ("global_batch_size", str(batch), f"rows of an optimizer step; the paper's is {paper}"),
        ("warmup_steps", "0.1", "below 1, it is a share of the steps"),
        ("weight_decay", "1e-4", ""),
        ("logging_steps", "1" if epochs * rows < 100 * batch else "10", ""),
        ("save_steps", "100", ""),
        ("save_total_limit", "2", "checkpoints; the newest is enough to resume from"),
        ("seed", "42", ""),
    ]


def _batch(rows: int, paper: int, gpus: int) -> int:
    """The largest global batch, up to the paper's, that gives an epoch some steps."""
    sizes = [gpus * 2**k for k in range(8) if SMALLEST_BATCH <= gpus * 2**k <= paper] or [gpus]
    return max((size for size in sizes if rows / size >= MIN_STEPS), default=sizes[0])


def _write(path: Path, title: str, settings: list[Setting]) -> None:
    lines = [f"# {title}. Written by new_recipe.py; change what you like, docs/training.md explains the options."]
    lines += [f"{key}: {value}" + f"  # {comment}" * bool(comment) for key, value, comment in settings]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_yaml(value: str) -> str:
    """Text as it can stand in YAML, quoted only where it must be."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]
