"""What the training scripts share: loading, resuming, saving, and the manifest of a run."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from huggingface_hub import upload_folder
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from redi.callbacks import AlreadyTrained, CollapseGuard, SkipTrained, StopOnSigterm
from redi.data.training_data import load_rows
from redi.runs.checkpoints import (
    STARTED,
    is_finished_run,
    last_complete_checkpoint,
    read_start,
    refuse_other_world_size,
    write_start,
)
from redi.runs.errors import UsageError
from redi.runs.manifest import write_manifest
from redi.runs.model_card import write_model_card
from redi.runs.model_folder import attention_of, load_tokenizer

if TYPE_CHECKING:
    from peft import LoraConfig


CHECKED = "options are right; GPUs here:"  # recipes/launch.sh reads the number after it


@dataclass
class RunArguments:
    """Options that the training scripts add to their trainer's own.

    Parameters:
        model_name_or_path (`str`): a model folder or a Hub id, the start of the training.
        dataset_name (`str`): a folder made by `data_preprocess/`, a parquet file, or a Hub id.
        dataset_train_split (`str`, *optional*, defaults to `"train"`): the split to train on.
        dtype (`str`, *optional*): dtype of the model's weights; TRL's default is float32, with bf16 as autocast.
        attn_implementation (`str`, *optional*): attention of the model, for example `flash_attention_2`.
        global_batch_size (`int`, *optional*): rows of an optimizer step, over all processes, however many there are;
            `gradient_accumulation_steps` follows. With `max_tokens_per_micro_batch`, the micro-batches follow from it.
        check_only (`bool`, *optional*): check the options, say how many GPUs there are here, or that the run is
            finished already, and stop.
        tokenize_only (`bool`, *optional*): the same, with the rows tokenised into the datasets cache, by one process
            before there are others that would wait for it.
    """

    model_name_or_path: str = field(metadata={"help": "Model folder or Hub id, the start of the training."})
    dataset_name: str = field(metadata={"help": "Folder made by data_preprocess/, parquet file, or Hub id."})
    dataset_train_split: str = field(default="train", metadata={"help": "The split to train on."})
    dtype: str | None = field(default=None, metadata={"help": "dtype of the weights: float32, bfloat16, float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "e.g. sdpa or flash_attention_2"})
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "Rows of an optimizer step over all processes; gradient_accumulation_steps follows."},
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of LoRA adapters; without it, no adapters."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the adapters, times lora_r; 2 * lora_r."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get adapters; all linear ones but the head."}
    )
    tokenize_only: bool = field(
        default=False, metadata={"help": "Check the options, tokenise into the datasets cache, and stop."}
    )
    check_only: bool = field(default=False, metadata={"help": "Check the options and stop."})


def run_training(
    run: RunArguments,
    args: TrainingArguments,
    given: dict[str, Any],
    prepare: Callable[[Dataset, PreTrainedTokenizerBase], Dataset],
    trainer_class: Callable[..., Trainer],
) -> None:
    """Trains, resuming from the last complete checkpoint in `output_dir` if any, and saves the model and its manifest.

    Args:
        run: the script's options.
        args: the trainer's options.
        given: the options that were set, as `recipe_options.parse_options` returns them; they identify the run.
        prepare: turns the loaded rows into what the trainer expects; through `Dataset.map`, whose results are cached.
        trainer_class: called as `trainer_class(model=PATH, args=..., train_dataset=..., processing_class=...,
            peft_config=...)`.

    Raises:
        UsageError: an option cannot be used, or `output_dir` holds the result of other options.
        SystemExit: the training was stopped, and neither model nor manifest written: with code 3 by the collapse
            guard, with code 143 by SIGTERM.
    """
    started = time.time()
    given = {key: value for key, value in given.items() if key not in ("check_only", "tokenize_only")}
    _settle_saving(args, given)
    split = "" if run.global_batch_size is None else _split_global_batch(run.global_batch_size, args, given)
    lora = lora_config(run)
    if is_finished_run(args, given, inputs_of(run)):
        return
    if run.check_only:
        print(f"{CHECKED} {torch.cuda.device_count()}", flush=True)
        return
    if args.process_index == 0 and not run.tokenize_only:
        for line in filter(None, (split, _lost_updates(run, args))):
            print(line, flush=True)
    attention = attention_of(run.model_name_or_path, run.attn_implementation)
    init = {"dtype": run.dtype, "attn_implementation": attention}
    args.model_init_kwargs = {**(args.model_init_kwargs or {}), **{k: v for k, v in init.items() if v is not None}}
    args.run_name = args.run_name or "/".join(Path(args.output_dir).resolve().parts[-2:])  # without --config
    tokenizer = load_tokenizer(run.model_name_or_path)
    dataset = load_rows(run.dataset_name, run.dataset_train_split)
    num_rows = len(dataset)
    try:
        rows = prepare(dataset, tokenizer)
        if run.tokenize_only:
            print(f"{run.dataset_name}: {len(rows)} of {num_rows} rows tokenised, in the datasets cache", flush=True)
            print(f"{CHECKED} {torch.cuda.device_count()}", flush=True)
            return
        trainer = trainer_class(
            model=run.model_name_or_path, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora
        )
    except ValueError as error:  # rows or options that the trainer refuses
        raise UsageError(str(error)) from error
    except (HfHubHTTPError, ConnectionError) as error:  # it makes the repository to push to
        raise UsageError(f"push_to_hub=True: {error}; set hub_model_id and log in with `hf auth login`") from error
    if lora is not None:
        _refuse_sharded_adapters(trainer)
    if trainer.is_world_process_zero():
        write_start(Path(args.output_dir), given, inputs_of(run))
    _train(trainer)
    _finish(trainer, run, given, num_rows, started)


def _settle_saving(args: TrainingArguments, given: dict[str, Any]) -> None:
    """Refuses options that leave nothing to resume from, or that are not read; a push happens at the end alone."""
    if args.save_only_model:
        raise UsageError(
            "save_only_model=true leaves nothing to resume from, but runs resume by themselves: remove it"
        )
    if args.enable_jit_checkpoint:
        raise UsageError(
            "enable_jit_checkpoint=true is not read: runs save and stop on SIGTERM by themselves. Remove it"
        )
    if args.push_to_hub:
        if "hub_strategy" in given:
            raise UsageError("hub_strategy is not read: push_to_hub pushes the final model, with its card. Remove it")
        args.hub_strategy = HubStrategy.END


def _finish(trainer: Trainer, run: RunArguments, given: dict[str, Any], num_rows: int, started: float) -> None:
    """Writes the model, the log history that the plots read, the manifest and the model card."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    pushes, args.push_to_hub = args.push_to_hub, False  # not yet: the card is still to be written
    if run.lora_r is None:
        trainer.save_model()
    else:
        _save_merged(trainer)
    if trainer.is_world_process_zero():
        trainer.save_state()
        counts = {
            "rows": num_rows,
            "rows_trained_on": len(trainer.train_dataset),
            "steps": trainer.state.global_step,
            "world_size": args.world_size,
        }
        known = {name: entry["sha256"] for name, entry in read_start(folder)["inputs"].items()}
        write_manifest(
            folder,
            config=given,
            inputs=inputs_of(run),
            fingerprints=known,
            counts=counts,
            seed=args.seed,
            started=started,
        )
        (folder / STARTED).unlink()
        write_model_card(folder, "SimPO" if getattr(args, "objective", None) == "simpo" else trainer._name)
        print(f"wrote {args.output_dir}: model, trainer_state.json, manifest.json, README.md", flush=True)
        if pushes:
            _push(folder, trainer.hub_model_id, args)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _push(folder: Path, repository: str, args: TrainingArguments) -> None:
    try:
        upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=["_*", "checkpoint-*"],
            commit_message="Trained model, manifest and card",
            token=args.hub_token,
            revision=args.hub_revision,
        )
    except (HfHubHTTPError, ConnectionError) as error:
        remedy = f"the model is whole in {folder}: hf upload {repository} {folder} --exclude 'checkpoint-*'"
        raise UsageError(f"push_to_hub=True: {error}; {remedy}") from error
    print(f"pushed to {repository}", flush=True)


def inputs_of(run: RunArguments) -> dict[str, str]:
    return {"model": run.model_name_or_path, "dataset": run.dataset_name}


def _split_global_batch(global_batch_size: int, args: TrainingArguments, given: dict[str, Any]) -> str:
    """Sets what each process does of an optimizer step of `global_batch_size` rows; says it in one line.

    Raises:
        UsageError: it cannot be split evenly, or an option that follows from it was given as well.
    """
    ranks, fits_room = args.world_size, getattr(args, "max_tokens_per_micro_batch", None) is not None
    follows = ["gradient_accumulation_steps"] + ["per_device_train_batch_size"] * fits_room
    for name in follows:
        if name in given:
            raise UsageError(f"{name}={given[name]} follows from global_batch_size={global_batch_size}: remove it")
    if fits_room:  # the trainer makes as many micro-batches as have room
        args.per_device_train_batch_size = max(1, global_batch_size // ranks)
    per_device = args.per_device_train_batch_size
    args.gradient_accumulation_steps, rest = divmod(global_batch_size, per_device * ranks)
    if global_batch_size < 1 or rest or not args.gradient_accumulation_steps:
        raise UsageError(
            f"global_batch_size={global_batch_size} is no multiple of {per_device * ranks}: {ranks} process(es) "
            f"times per_device_train_batch_size={per_device}; change one of them"
        )
    factors = f"{ranks} x {per_device} x {args.gradient_accumulation_steps}"
    return f"global batch of {global_batch_size} = {factors} (processes x per device x accumulation)"


def lora_config(run: RunArguments) -> "LoraConfig | None":
    """The adapters that the options ask for; raises `UsageError` where options have no effect or peft is missing."""
    if run.lora_r is None:
        for name in ("lora_alpha", "lora_target_modules"):
            if getattr(run, name) is not None:
                raise UsageError(f"{name}={getattr(run, name)} is read only with lora_r: set it, or remove {name}")
        return None
    if run.lora_r < 1:
        raise UsageError(f"lora_r={run.lora_r} must be at least 1")
    try:
        from peft import LoraConfig
    except ImportError:
        raise UsageError("lora_r needs the package peft: .venv/bin/python -m pip install -e '.[peft]'") from None
    return LoraConfig(
        r=run.lora_r,
        lora_alpha=run.lora_alpha or 2 * run.lora_r,
        target_modules=run.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )


def _lost_updates(run: RunArguments, args: TrainingArguments) -> str:
    """A line of warning where half-precision weights are all that the optimizer has; else nothing."""
    dtype = run.dtype or (args.model_init_kwargs or {}).get("dtype")
    keeps_float32 = args.deepspeed_plugin is not None or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if dtype not in ("bfloat16", "float16") or keeps_float32 or run.lora_r is not None:
        return ""
    return (
        f"warning: dtype={dtype} without DeepSpeed or FSDP: no float32 weights are kept, and changes as small as "
        f"learning_rate={args.learning_rate:g} makes are lost in rounding; remove dtype (bf16: true computes in "
        "bfloat16 all the same), or use configs/accelerate/zero2.yaml"
    )


def _refuse_sharded_adapters(trainer: Trainer) -> None:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise UsageError(
            "lora_r works on whole models: use configs/accelerate/single_gpu.yaml, ddp.yaml or zero2.yaml"
        )


def _save_merged(trainer: Trainer) -> None:
    """Writes the adapters to `output_dir/adapter` and the model with the adapters merged to `output_dir`."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model(str(folder / "adapter"))
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def _train(trainer: Trainer) -> None:
    """Trains from the last complete checkpoint; raises `SystemExit` where the training was stopped before its end.

    Raises:
        UsageError: that checkpoint needs another number of processes.
    """
    is_main = trainer.is_world_process_zero()
    checkpoint, incomplete = last_complete_checkpoint(trainer.args.output_dir)
    if incomplete and is_main:
        print(f"skipping checkpoints that were not written to the end: {', '.join(map(str, incomplete))}", flush=True)
    if checkpoint:
        refuse_other_world_size(checkpoint, trainer.args.world_size)
        if is_main:
            print(f"resuming from {checkpoint}", flush=True)
    trainer.add_callback(SkipTrained())
    with StopOnSigterm() as sigterm:
        trainer.add_callback(sigterm)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except AlreadyTrained:
            return
    guards = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, CollapseGuard)]
    if any(guard.stops and guard.collapse for guard in guards):
        code, message = 3, "stopped by collapse_guard; no model was written"
    elif sigterm.stopped:
        code, message = 143, f"stopped by SIGTERM after step {trainer.state.global_step}; the same command resumes"
    else:
        return
    if is_main:
        print(message, flush=True)
    # A launcher kills the other ranks as soon as one has ended with an error.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    raise SystemExit(code)
