"""Reads a recipe as training does, with its accelerate configuration, and opens the model and rows that it names."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from redi.data.training_data import scan_rows, split_files
from redi.engine.attention import enable_packing
from redi.job import NOTHING_COMPUTED, Job, check_adapters, check_job, read_job
from redi.preflight.counting import Precision
from redi.preflight.memory import ModelShape, Strategy, shape_of
from redi.runs.checkpoints import last_complete_checkpoint, refuse_other_world_size
from redi.runs.errors import UsageError, usage_errors
from redi.runs.launch import accelerate_file
from redi.runs.manifest import read_manifest
from redi.runs.model_folder import attention_of, check_weights, load_tokenizer
from redi.runs.recipe import read_config
from redi.stages import STAGES
from redi.text.training_rows import kind_of

A100_TFLOPS = 312.0


@dataclass(frozen=True)
class Machine:
    """What the job runs on."""

    gpus: int  # processes of the job, over all machines
    memory: float  # GiB of each GPU
    tflops: float = A100_TFLOPS  # dense bfloat16 peak of each GPU
    utilisation: float | None = None  # share of the peak that is used; by default the paper's


@dataclass(frozen=True)
class Recipe(Job):
    """A job on the processes of an accelerate configuration."""

    newest: Path | None = None  # the complete checkpoint from which it would resume
    strategy: Strategy = Strategy("none", 1)
    accelerate: str = ""

    @property
    def trains_on_traces(self) -> bool:
        return getattr(self.args, "trains_on_traces", False)

    @property
    def leaves_out_negatives(self) -> bool:
        return getattr(self.args, "leaves_out_negatives", False)


def read_recipe(config: Path, overrides: list[str], gpus: int) -> Recipe:
    """Checks STAGE/RUN, or its config.yaml, with overrides (`--key value ...`), as training on `gpus` GPUs does.

    Without GPUs (0), as on the CPU.

    Raises:
        UsageError: whatever training refuses; the stage is unknown; or the configuration is not for so many GPUs.
    """
    config = config / "config.yaml" if config.is_dir() else config
    if not config.is_file():
        raise UsageError(f"{config} does not exist; name the folder of a recipe, or its config.yaml")
    stage = config.resolve().parent.parent.name
    if stage not in STAGES:
        raise UsageError(f"{config} is not in a folder STAGE/RUN with STAGE one of {', '.join(STAGES)}")
    argv = ["--config", str(config), *overrides]
    # Training refuses bf16 on a machine without a GPU unless use_cpu is set; nothing is computed here.
    job = read_job(stage, argv, assumed=NOTHING_COMPUTED)
    on_cpu = gpus == 0 or job.given.get("use_cpu", False)
    if on_cpu:
        try:
            job = read_job(stage, argv)
        except UsageError as error:
            raise UsageError(f"{error}; preflight checks a job for other machines with --gpus N") from error
    elif "bf16" not in job.given:
        job.args.bf16 = not job.args.fp16  # TRL's default
    return to_recipe(job, 1 if on_cpu else gpus, on_cpu)


def to_recipe(job: Job, processes: int, on_cpu: bool, check_inputs: bool = True) -> Recipe:
    """Checks a job on so many processes, one per GPU; `check_inputs` as in `check_job`.

    Raises:
        UsageError: as `check_job` and `read_strategy`; or the adapters or the checkpoint do not fit the strategy.
    """
    path = accelerate_file(job.run.accelerate_config, 0 if on_cpu else processes)
    strategy = read_strategy(path, processes, on_cpu)
    job = check_job(job, processes, check_inputs)
    newest = last_complete_checkpoint(job.args.output_dir)[0]
    if newest is not None and not job.is_finished:
        refuse_other_world_size(newest, processes)
    if job.lora is not None and strategy.kind in ("zero3", "fsdp2"):
        raise UsageError(
            f"lora_r={job.run.lora_r} needs unsharded weights: use accelerate_config single_gpu, ddp or zero2, not "
            f"{path.stem}"
        )
    return Recipe(**vars(job), newest=newest, strategy=strategy, accelerate=path.stem)


def read_strategy(path: Path, gpus: int, on_cpu: bool) -> Strategy:
    """How an accelerate configuration spreads a model over GPUs.

    Raises:
        UsageError: it is not for so many GPUs, or its kind is not known here.
    """
    if on_cpu:
        return Strategy("none", gpus, on_cpu=True)
    config = read_config(path, "accelerate_config")
    kind = config.get("distributed_type", "NO")
    if kind == "DEEPSPEED":
        zero = config.get("deepspeed_config") or {}
        offloads = [zero.get(f"offload_{what}_device", "none") != "none" for what in ("optimizer", "param")]
        return Strategy(f"zero{zero.get('zero_stage', 2)}", gpus, *offloads)  # accelerate's default
    if kind == "FSDP":
        offloads = bool((config.get("fsdp_config") or {}).get("fsdp_offload_params"))
        return Strategy("fsdp2", gpus, offloads, offloads)
    if kind not in ("MULTI_GPU", "NO"):
        raise UsageError(f"accelerate_config={path}: distributed_type={kind} is not known to preflight")
    if kind == "NO" and gpus > 1:
        raise UsageError(
            f"accelerate_config={path.stem} runs one process, not {gpus}: use another, or one GPU (NUM_PROCESSES=1)"
        )
    return Strategy("ddp" if gpus > 1 else "none", gpus)


@dataclass(frozen=True)
class Model:
    """The start model without its weights: `attention` is the implementation that training loads it with."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    attention: str | None
    shape: ModelShape
    precision: Precision


def open_model(recipe: Recipe) -> Model:
    """Configuration and tokenizer of the start model; its weights are checked, not loaded.

    Raises:
        UsageError: the model does not exist or is incomplete, or the attention asked for ignores its cap on logits.
    """
    path = recipe.run.model_name_or_path
    tokenizer = load_tokenizer(path)
    option = f"model_name_or_path={path}"
    with usage_errors(lambda error: f"{option} has no config.json that can be loaded: {error}", OSError, ValueError):
        config = AutoConfig.from_pretrained(path)
    if Path(path).is_dir():
        check_weights(Path(path), option)
    size, vocabulary = len(tokenizer), config.get_text_config().vocab_size
    if size > vocabulary:
        raise UsageError(
            f"{option}: its tokenizer has {size} tokens, but its embeddings have only {vocabulary} rows; resize them, "
            "or use the model's own tokenizer"
        )
    if recipe.lora is not None:
        check_adapters(path, recipe.lora)
    attention = attention_of(path, recipe.run.attn_implementation)
    return Model(config, tokenizer, attention, shape_of(config, recipe.lora), precision_of(recipe, config))


def precision_of(recipe: Recipe, config: PreTrainedConfig) -> Precision:
    name = recipe.run.dtype or (recipe.args.model_init_kwargs or {}).get("dtype") or "float32"
    dtype = config.dtype if name == "auto" else getattr(torch, str(name).removeprefix("torch."))
    return Precision(dtype or torch.float32, autocast=bool(recipe.args.bf16 or recipe.args.fp16))


def why_padded(recipe: Recipe, config: PreTrainedConfig) -> str | None:
    """Why the engine will pad traces, as `enable_packing` says for a model without data; None if it packs them."""
    if not recipe.trains_on_traces:
        return None
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    if recipe.run.attn_implementation is not None:  # set here: its package need not be installed
        empty.config.get_text_config()._attn_implementation = recipe.run.attn_implementation
    return enable_packing(empty)


@dataclass(frozen=True)
class Rows:
    """The rows to train on, read from their files; `note` says how they compare with their manifest."""

    table: pyarrow.dataset.Dataset
    num_rows: int
    kind: str  # positives, pairs or traces
    note: str

    def first(self, count: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
        # By default Arrow prefetches many files: seconds, and gigabytes, for rows of long traces.
        ahead = {"batch_readahead": 0, "fragment_readahead": 0}
        return self.table.head(count, columns=columns, batch_size=count, **ahead).to_pylist()


def open_rows(recipe: Recipe) -> Rows:
    """Opens the dataset's files and compares them with its manifest.

    Raises:
        UsageError: the dataset does not exist, has no rows, nothing that the stage trains on, or is not what its
            manifest counts.
    """
    name, split = recipe.run.dataset_name, recipe.run.dataset_train_split
    table, files = scan_rows(name, split), split_files(name, split)
    num_rows = table.count_rows()
    if num_rows == 0:
        raise UsageError(f"dataset_name={name} has no rows")
    kind = kind_of(table.schema.names, recipe.stage.kinds, f"dataset_name={name}")
    manifest = read_manifest(name, "counts.rows") if Path(name).is_dir() else None
    if manifest is None or split not in ("train", "test", "validation"):  # part of the rows
        return Rows(table, num_rows, kind, "no manifest.json to compare with")
    counted, known = manifest["counts"]["rows"], manifest["counts"].get("files")
    others = [file.name for file in files if known is not None and file.name not in known]
    if counted != num_rows or others:
        extra = f", and does not list {', '.join(others[:3])}" if others else ""
        raise UsageError(
            f"dataset_name={name} has {num_rows:,} rows in split {split}, but its manifest.json counts "
            f"{counted:,}{extra}; build it again into an empty folder"
        )
    return Rows(table, num_rows, kind, "as many as its manifest.json counts")
