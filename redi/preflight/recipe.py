"""A recipe as its own training script reads it, its accelerate configuration, and the rows that it names."""

import contextlib
import copy
import importlib.util
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.dataset
import torch
import yaml
from datasets import load_dataset_builder
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from redi import training
from redi.data.training_data import load_rows
from redi.engine.attention import enable_packing
from redi.preflight.memory import Strategy
from redi.runs.checkpoints import is_finished_run, last_complete_checkpoint, refuse_other_world_size
from redi.runs.errors import UsageError
from redi.runs.manifest import read_manifest
from redi.runs.model_folder import attention_of, check_weights, load_tokenizer

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = {"sft": "train_sft", "redi": "train_redi", "simpo": "train_redi", "dpo": "train_dpo"}  # by stage
LAUNCH = re.compile(r'launch\.sh" (\w+) "\$here" (\w+)')


@dataclass(frozen=True)
class Recipe:
    """What a training script makes of a `config.yaml`.

    Attributes:
        script: train_sft, train_redi or train_dpo.
        run, args, given, prepare, make_trainer: what it hands to `redi.training.run_training`.
        strategy: the accelerate configuration, on how many GPUs.
        accelerate: its name.
        lora: the adapters' configuration, or None.
        is_finished: whether `output_dir` holds this very run already.
    """

    script: str
    run: training.RunArguments
    args: TrainingArguments
    given: dict[str, Any]
    prepare: Callable[..., Any]
    make_trainer: Callable[..., Trainer]
    strategy: Strategy
    accelerate: str
    lora: Any
    is_finished: bool


def read_recipe(config: Path, overrides: list[str], gpus: int, accelerate: Path | None) -> Recipe:
    """Runs the recipe's training script up to the point where it would start, as on `gpus` GPUs.

    Args:
        config: a recipe's `config.yaml`; its `train.sh` names script and accelerate configuration, or, without one,
            the folder above the recipe names the stage.
        overrides: `--key value ...` of the script.
        gpus: processes of the job; 1 with `use_cpu: true`.
        accelerate: an accelerate configuration instead of the recipe's.

    Raises:
        UsageError: whatever the script refuses; no script is found; or the configuration cannot be on so many GPUs.
    """
    if not config.is_file():
        raise UsageError(f"{config} does not exist; name the config.yaml of a recipe")
    launcher = config.parent / "train.sh"
    match = LAUNCH.search(launcher.read_text(encoding="utf-8")) if launcher.is_file() else None
    stage = config.resolve().parent.parent.name
    if match is None and stage not in SCRIPTS:
        raise UsageError(
            f"{config}: which script trains it is unknown: there is no train.sh beside it that calls launch.sh, and "
            f"it does not lie in recipes/STAGE/RUN/ with a STAGE of {', '.join(SCRIPTS)}"
        )
    script, name = match.groups() if match else (SCRIPTS[stage], "zero3" if stage == "dpo" else "zero2")
    has_use_cpu = re.search(r"^use_cpu\s*:", config.read_text(encoding="utf-8"), re.MULTILINE) is not None
    has_use_cpu = has_use_cpu or any(option.split("=")[0] == "--use_cpu" for option in overrides)
    # Without a GPU, bf16 is refused unless use_cpu is set; nothing is computed here.
    argv = ["--config", str(config), *overrides, *([] if has_use_cpu else ["--use_cpu", "true"])]
    run, args, given, prepare, make_trainer = _handed_over(script, argv)
    on_cpu = has_use_cpu and args.use_cpu
    if not has_use_cpu:
        del given["use_cpu"]
    strategy = read_strategy(accelerate or REPOSITORY / f"configs/accelerate/{name}.yaml", gpus, on_cpu)
    args = _on_processes(args, strategy.gpus)
    run.check_only = True
    with contextlib.redirect_stdout(io.StringIO()):  # it says what it finds
        training.run_training(run, args, given, prepare, make_trainer)  # checks, and splits the global batch
        is_finished = is_finished_run(args, given, training.inputs_of(run))
    newest = last_complete_checkpoint(args.output_dir)[0]
    if newest is not None and not is_finished:
        refuse_other_world_size(newest, strategy.gpus)
    lora = training.lora_config(run)
    if lora is not None and strategy.kind in ("zero3", "fsdp2"):
        raise UsageError(f"lora_r={run.lora_r} works on whole models: use single_gpu, ddp or zero2, not {name}")
    accelerate_name = accelerate.stem if accelerate else name
    if strategy.kind == "none":  # as launch.sh does
        accelerate_name = "cpu" if on_cpu else "single_gpu"
    return Recipe(script, run, args, given, prepare, make_trainer, strategy, accelerate_name, lora, is_finished)


def read_strategy(path: Path, gpus: int, on_cpu: bool) -> Strategy:
    """How an accelerate configuration spreads a model over GPUs.

    Raises:
        UsageError: there is none, or it is not for so many GPUs, or its kind is not known here.
    """
    if on_cpu:
        return Strategy("none", 1, on_cpu=True)
    if not path.is_file():
        raise UsageError(f"--accelerate-config {path} does not exist")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = config["distributed_type"]
    if kind == "DEEPSPEED":
        zero = config["deepspeed_config"]
        offloads = [zero.get(f"offload_{what}_device", "none") != "none" for what in ("optimizer", "param")]
        return Strategy(f"zero{zero['zero_stage']}", gpus, *offloads)
    if kind == "FSDP" and config["fsdp_config"].get("fsdp_version") == 2:
        offloads = bool(config["fsdp_config"].get("fsdp_offload_params"))
        return Strategy("fsdp2", gpus, offloads, offloads)
    if kind == "MULTI_GPU":
        return Strategy("ddp" if gpus > 1 else "none", gpus)
    if kind != "NO":
        raise UsageError(f"--accelerate-config {path}: distributed_type={kind} is not known here")
    if gpus > 1:
        raise UsageError(f"--gpus {gpus}: {path.name} runs one process; use --gpus 1, or another configuration")
    return Strategy("none", 1)


def _handed_over(script: str, argv: list[str]) -> tuple[Any, ...]:
    """The arguments with which the script's `main` calls `run_training`, which is replaced meanwhile."""
    module = _load_script(script)
    calls = []
    original = module.run_training
    module.run_training = lambda run, args, given, prepare, trainer_class: calls.append(
        (run, args, given, prepare, trainer_class)
    )
    try:
        module.main.__wrapped__(argv)  # without `entry_point`, which would end the process on an error
    finally:
        module.run_training = original
    return calls[0]


def _load_script(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    path = REPOSITORY / "scripts" / f"{name}.py"
    if not path.is_file():
        raise UsageError(f"the recipe's train.sh names scripts/{name}.py, which does not exist")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _on_processes(args: TrainingArguments, count: int) -> TrainingArguments:
    """The options as each of `count` processes would have them."""
    args = copy.copy(args)
    args.__class__ = type(args.__class__.__name__, (args.__class__,), {"world_size": count})
    return args


@dataclass(frozen=True)
class Model:
    """The model that training starts from: its configuration, its tokenizer, and the attention it is loaded with."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    attention: str | None


def open_model(recipe: Recipe) -> Model:
    """Configuration and tokenizer of the start model, whose weights must be there.

    Raises:
        UsageError: there is no such model, it is not whole, or the attention that is asked for leaves out its cap.
    """
    path = recipe.run.model_name_or_path
    tokenizer = load_tokenizer(path)
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"model_name_or_path={path} has no config.json that can be loaded: {error}") from error
    if Path(path).is_dir():
        check_weights(Path(path), f"model_name_or_path={path}")
    size, vocabulary = len(tokenizer), config.get_text_config().vocab_size
    if size > vocabulary:
        raise UsageError(
            f"model_name_or_path={path}: its tokenizer has {size} tokens, its embeddings only {vocabulary} rows; "
            "resize them, or use the model's own tokenizer"
        )
    return Model(config, tokenizer, attention_of(path, recipe.run.attn_implementation))


def why_padded(recipe: Recipe, model: Model) -> str | None:
    """Why REDI will pad the traces that it is to pack; None where it will not.

    As `redi.engine.attention.enable_packing` says of a model without data.
    """
    if recipe.script != "train_redi" or not recipe.args.padding_free:
        return None
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
    if recipe.run.attn_implementation is not None:  # set here, since its package need not be installed
        empty.config.get_text_config()._attn_implementation = recipe.run.attn_implementation
    return enable_packing(empty)


@dataclass(frozen=True)
class Rows:
    """The rows to train on, read where they lie.

    Attributes:
        table: to read batches of columns from.
        num_rows: how many.
        note: what was checked of them.
    """

    table: pyarrow.dataset.Dataset
    num_rows: int
    note: str

    def first(self, count: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """The first rows, with these columns or all."""
        # By default Arrow reads many files ahead: seconds, and gigabytes, for rows of long traces.
        ahead = {"batch_readahead": 0, "fragment_readahead": 0}
        return self.table.head(count, columns=columns, batch_size=count, **ahead).to_pylist()


def open_rows(recipe: Recipe) -> Rows:
    """The dataset's rows, as many as its manifest counts.

    Raises:
        UsageError: there is no such dataset, its manifest counts other rows or files, or it has none.
    """
    name, split = recipe.run.dataset_name, recipe.run.dataset_train_split
    files = _parquet_files(name, split)
    if files is None:
        table = pyarrow.dataset.dataset(load_rows(name, split).with_format("arrow")[:])
    else:
        table = pyarrow.dataset.dataset(files, format="parquet")
    num_rows = table.count_rows()
    if num_rows == 0:
        raise UsageError(f"dataset_name={name} has no rows")
    manifest = read_manifest(name) if Path(name).is_dir() else None
    if manifest is None:
        return Rows(table, num_rows, "no manifest.json to compare with")
    counted = manifest["counts"]["rows"]
    others = sorted({str(Path(file).relative_to(Path(name).resolve())) for file in files or []})
    others = [file for file in others if file not in manifest["counts"].get("files", others)]
    if counted != num_rows or others:
        extra = f", and {', '.join(others[:3])} is not its own" if others else ""
        raise UsageError(
            f"dataset_name={name} has {num_rows:,} rows in split {split}, but its manifest.json counts "
            f"{counted:,}{extra}; build it again into an empty folder"
        )
    return Rows(table, num_rows, "as its manifest.json counts")


def _parquet_files(name: str, split: str) -> list[str] | None:
    """The files that `load_dataset` would take for the split; None where they are not local parquet files."""
    path = Path(name)
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        return None
    try:
        found = load_dataset_builder(name).config.data_files or {}
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"dataset_name={name} cannot be loaded: {error}") from error
    if split not in found:
        raise UsageError(f"dataset_train_split={split}: dataset_name={name} has {', '.join(map(str, found))}")
    files = [str(Path(file).resolve()) for file in found[split]]
    return files if all(file.endswith(".parquet") for file in files) else None
