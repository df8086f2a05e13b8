"""A training job as its command line describes it: reads the options and checks what needs no model and no data."""

import copy
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import HubStrategy

from redi.config import needs_gpu
from redi.runs.checkpoints import is_finished_run, refuse_foreign_folder
from redi.runs.errors import UsageError, usage_errors
from redi.runs.launch import check_driver
from redi.runs.recipe_options import parse_options
from redi.stages import STAGES, Stage

if TYPE_CHECKING:
    from peft import LoraConfig


# Options of a job that is only checked or tokenised: TrainingArguments refuse bf16, the default, without a GPU.
NOTHING_COMPUTED = {"use_cpu": True, "bf16": False, "tf32": None}
NO_SEQUENCE_PARALLELISM = "a trace stays on one GPU (no context, sequence or tensor parallelism)"
# Options that are read with `eval_dataset_name`.
_EVALUATION = ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size")
_EVALUATION += ("dataset_eval_split",)
_NO_EVALUATION = "training evaluates nothing but eval_dataset_name, by eval_strategy; eval.sh evaluates checkpoints"
# Options of the Trainer that no stage reads, and why. Setting one is an error instead of a silent no-op.
UNREAD_OPTIONS = {
    option.name: _NO_EVALUATION
    for option in fields(TrainingArguments)
    if "eval" in option.name and option.name not in _EVALUATION
} | {
    **dict.fromkeys(("do_predict", "eval_packing", "prediction_loss_only", "include_for_metrics"), _NO_EVALUATION),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _NO_EVALUATION),
    "do_train": "this command trains in any case",
    "resume_from_checkpoint": "runs resume by themselves from the newest complete checkpoint in output_dir",
    "save_only_model": "it leaves nothing to resume from, but runs resume by themselves",
    "enable_jit_checkpoint": "runs save and stop on SIGTERM by themselves",
    "hub_strategy": "push_to_hub pushes the final model with its card",
    "parallelism_config": NO_SEQUENCE_PARALLELISM,
    "hub_token": "the environment variable HF_TOKEN holds it",
}


@dataclass
class RunArguments:
    """The options of a run that are not its trainer's; their `help` describes them."""

    model_name_or_path: str = field(metadata={"help": "Model folder or Hub id to start from."})
    dataset_name: str = field(
        metadata={"help": "Folder built by data_preprocess/, parquet or .jsonl file, or Hub id."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "Held-out rows, measured as eval_strategy says; a dataset like dataset_name."}
    )
    dataset_eval_split: str = field(default="train", metadata={"help": "Split of the held-out rows."})
    dtype: str | None = field(default=None, metadata={"help": "dtype of the weights: float32, bfloat16, float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "e.g. sdpa or flash_attention_2"})
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "Rows of an optimizer step over all processes; gradient_accumulation_steps follows."},
    )
    accelerate_config: str | None = field(
        default=None, metadata={"help": "What train.sh launches with: a name in configs/accelerate, or a YAML file."}
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of LoRA adapters; without it, no adapters."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the adapters, times lora_r; 2 * lora_r."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get adapters; default: all linear ones but the head."}
    )
    tokenize_only: bool = field(
        default=False, metadata={"help": "Check the options, tokenise the rows into the datasets cache, and stop."}
    )
    check_only: bool = field(default=False, metadata={"help": "Check the options and stop."})
    check_memory: bool = field(
        default=False, metadata={"help": "train.sh refuses a run whose predicted peak does not fit the GPUs' memory."}
    )

    @property
    def inputs(self) -> dict[str, str]:
        held_out = {"held-out dataset": self.eval_dataset_name} if self.eval_dataset_name else {}
        return {"model": self.model_name_or_path, "dataset": self.dataset_name, **held_out}


@dataclass(frozen=True)
class Job:
    """A training job as its command line describes it.

    Attributes:
        name: of its stage.
        run, args: the options of the run and of its trainer.
        given: the options that were set; they identify the run.
        batch: how the global batch is split over processes, in one line; empty without `global_batch_size`.
        lora: the adapters to train, if any.
        is_finished: whether `output_dir` holds this run, finished.
    """

    name: str
    stage: Stage
    run: RunArguments
    args: TrainingArguments
    given: dict[str, Any]
    batch: str = ""
    lora: "LoraConfig | None" = None
    is_finished: bool = False

    @property
    def held_out(self) -> Self | None:
        """The job with its held-out rows in place of those to train on, to be read alike; None without such rows."""
        run = self.run
        if not run.eval_dataset_name or self.args.eval_strategy.value == "no":
            return None
        rows = {"dataset_name": run.eval_dataset_name, "dataset_train_split": run.dataset_eval_split}
        return replace(self, run=replace(run, **rows))


@contextmanager
def held_out_errors() -> Iterator[None]:
    """Makes errors about the rows of `Job.held_out` name the options that these come from."""
    try:
        yield
    except UsageError as error:
        names = {"dataset_name": "eval_dataset_name", "dataset_train_split": "dataset_eval_split"}
        text = re.sub(rf"\b({'|'.join(names)})", lambda match: names[match[0]], str(error))
        raise UsageError(text.replace("of the dataset", "of eval_dataset_name")) from error


def read_job(stage: str, argv: list[str], assumed: dict[str, Any] | None = None) -> Job:
    """Reads a command line, see `redi.runs.recipe_options.parse_options`. `check_job` completes the result."""
    kind = STAGES[stage]
    unread = UNREAD_OPTIONS | kind.unread
    (run, args), given = parse_options(argv, [RunArguments, kind.config], unread=unread, assumed=assumed)
    run.accelerate_config = run.accelerate_config or kind.accelerate_config
    for name in ("check_only", "check_memory", "tokenize_only", "accelerate_config"):  # how it starts, not what it is
        given.pop(name, None)
    if args.use_cpu and "use_cpu" not in {**given, **(assumed or {})} and run.dtype in ("bfloat16", "float16"):
        raise UsageError(needs_gpu("dtype", run.dtype))
    return Job(stage, kind, run, args, given)


def check_job(job: Job, num_processes: int, check_inputs: bool = True) -> Job:
    """Checks what can be checked without model and data; `args` get rows per device and accumulation steps.

    `check_inputs` compares the inputs of a run that has begun with those of its start: hashing a model takes a while.

    Raises `UsageError` if an option cannot be used, or `output_dir` holds the result of other options.
    """
    if "LOCAL_RANK" not in os.environ and not job.given.get("use_cpu"):  # once, before the launch
        check_driver(torch.version.cuda)
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() == "true":
        raise UsageError(f"remove parallelism_config from the accelerate configuration: {NO_SEQUENCE_PARALLELISM}")
    if job.args.push_to_hub:
        job.args.hub_strategy = HubStrategy.END  # pushes only once, at the end
    batch, folder = _split_global_batch(job, num_processes), Path(job.args.output_dir)
    refuse_foreign_folder(folder, job.run.inputs)
    _check_evaluation(job)
    _check_parts(job.args)
    lora = lora_config(job.run)
    finished = is_finished_run(folder, job.given, job.run.inputs, check_inputs)
    return replace(job, batch=batch, lora=lora, is_finished=finished)


def _split_global_batch(job: Job, num_processes: int) -> str:
    """Sets what each process does in an optimizer step of `global_batch_size` rows; describes it in one line."""
    size, args = job.run.global_batch_size, job.args
    if size is None:
        return ""
    cuts_by_tokens = getattr(args, "max_tokens_per_micro_batch", None) is not None
    for name in ["gradient_accumulation_steps"] + ["per_device_train_batch_size"] * cuts_by_tokens:
        if name in job.given:
            raise UsageError(f"{name}={job.given[name]} follows from global_batch_size={size}: remove it")
    per_device = 1 if cuts_by_tokens else args.per_device_train_batch_size
    args.gradient_accumulation_steps, rest = divmod(size, per_device * num_processes)
    if size < 1 or rest or not args.gradient_accumulation_steps:
        times = "" if cuts_by_tokens else f" times per_device_train_batch_size={per_device}"
        raise UsageError(
            f"global_batch_size={size} is not a multiple of {per_device * num_processes}: {num_processes} process(es)"
            f"{times}; change one of them"
        )
    if cuts_by_tokens:  # the trainer makes as many micro-batches as it needs
        args.per_device_train_batch_size, args.gradient_accumulation_steps = args.gradient_accumulation_steps, 1
        per_device = args.per_device_train_batch_size
    factors = f"{num_processes} x {per_device} x {args.gradient_accumulation_steps}"
    return f"global batch of {size} = {factors} (processes x per device x accumulation)"


def _check_evaluation(job: Job) -> None:
    """Refuses options of evaluation without effect. By default a held-out batch has the size of one of training."""
    args, given, name = job.args, job.given, job.run.eval_dataset_name
    unread = next((option for option in _EVALUATION if option in given), None)
    if not name and unread is not None:
        raise UsageError(f"{unread} is read only with eval_dataset_name: set it, or remove {unread}")
    if name and "eval_strategy" not in given:
        raise UsageError(f"eval_dataset_name={name} is read only with eval_strategy: steps or epoch")
    if "eval_steps" in given and args.eval_strategy.value == "epoch":
        raise UsageError(f"eval_steps={args.eval_steps:g} is read only with eval_strategy: steps")
    if "per_device_eval_batch_size" not in given:
        args.per_device_eval_batch_size = args.per_device_train_batch_size


def _check_parts(args: TrainingArguments) -> None:
    """Makes what the trainer makes at its start and needs no model: optimizer, schedule, kernels and trackers."""
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"):
        if getattr(args, name) < 1:
            raise UsageError(f"{name}={getattr(args, name)} must be at least 1")
    if args.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        raise UsageError("use_liger_kernel=True needs the package liger-kernel: install it, or remove the option")
    layer, tried = torch.nn.Linear(1, 1), copy.copy(args)
    tried.optim_target_modules = args.optim_target_modules and "all-linear"
    kinds = (ImportError, ValueError, TypeError, KeyError, RuntimeError)  # NotImplementedError is a RuntimeError
    with usage_errors(
        lambda error: f"optim={args.optim.value}, learning_rate={args.learning_rate:g}: {error}", *kinds
    ):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(tried, layer)
        if not kind.__module__.startswith("torch.optim"):  # others may need a GPU
            kind, options = torch.optim.SGD, {"lr": args.learning_rate}
        optimizer = kind(layer.parameters(), **options)
    schedule = f"lr_scheduler_type={args.lr_scheduler_type.value}, lr_scheduler_kwargs={args.lr_scheduler_kwargs}"
    with usage_errors(lambda error: f"{schedule}: {error}", *kinds):
        warmup = args.get_warmup_steps(100)
        get_scheduler(args.lr_scheduler_type, optimizer, warmup, 100, args.lr_scheduler_kwargs)
    with usage_errors(lambda error: f"report_to={args.report_to}: {error}", *kinds):
        for tracker in get_reporting_integration_callbacks(args.report_to):
            tracker()
    if "wandb" in args.report_to and "LOCAL_RANK" not in os.environ:  # once, before the launch
        _check_wandb_key()


def _check_wandb_key() -> None:
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return
    import wandb  # an optional package

    remedy = "set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"
    with usage_errors(lambda error: f"report_to=wandb: {error}; {remedy}", wandb.Error):
        if not wandb.login(prompt=False):
            raise UsageError(f"report_to=wandb finds no API key: {remedy}")


def check_kernel(attention: str | None) -> None:
    """Refuses flash-attention without its package. Raises `UsageError`."""
    packages = ("flash_attn", "flash_attn_interface", "kernels")
    if (attention or "").startswith("flash_attention") and not any(map(importlib.util.find_spec, packages)):
        raise UsageError(f"attn_implementation={attention} needs the package flash-attn: install it, or use sdpa")


def check_adapters(path: str, lora: "LoraConfig") -> None:
    """Adds adapters to a model without data. Raises `UsageError` if they fit no module, or could not be merged."""
    from peft import get_peft_model

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    with usage_errors(lambda error: f"lora_target_modules={lora.target_modules}: {error}", ValueError):
        model = get_peft_model(model, copy.deepcopy(lora), low_cpu_mem_usage=True).get_base_model()
    if model.config.get_text_config().tie_word_embeddings and hasattr(model.get_input_embeddings(), "lora_A"):
        raise UsageError(
            "lora_target_modules: the model's embeddings are also its head, so adapters on them cannot be merged; "
            "leave them out"
        )


def lora_config(run: RunArguments) -> "LoraConfig | None":
    """The adapters that the options ask for. Raises `UsageError` if one has no effect, or peft is missing."""
    if run.lora_r is None:
        for name in ("lora_alpha", "lora_target_modules"):
            if getattr(run, name) is not None:
                raise UsageError(f"{name}={getattr(run, name)} is read only with lora_r: set it, or remove {name}")
        return None
    if run.lora_r < 1:
        raise UsageError(f"lora_r={run.lora_r} must be at least 1")
    targets = run.lora_target_modules or ["all-linear"]
    missing = "lora_r needs the package peft: .venv/bin/python -m pip install -e '.[peft]'"
    with usage_errors(lambda error: missing, ImportError):
        from peft import LoraConfig
    return LoraConfig(
        r=run.lora_r,
        lora_alpha=run.lora_alpha or 2 * run.lora_r,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


def lost_updates(dtype: str, learning_rate: float) -> str:
    """What is wrong with half-precision weights that are the only ones the optimizer has.

    bfloat16 numbers are 2^-8 apart, relatively, and AdamW changes a weight by about the learning rate. In float16,
    AdamW's eps of 1e-8 and the squares of small gradients are 0, so updates explode.
    """
    fault = (
        "AdamW diverges"
        if dtype == "float16"
        else f"updates as small as learning_rate={learning_rate:g} are lost in rounding"
    )
    return (
        f"dtype={dtype} without DeepSpeed or FSDP keeps no float32 weights, and {fault}; set dtype: float32, the "
        "default (bf16: true still computes in bfloat16), or accelerate_config: zero2"
    )
