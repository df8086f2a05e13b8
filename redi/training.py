"""A training run: tokenises, trains or resumes, and saves the model with its manifest and card."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import create_repo, upload_folder
from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from redi.callbacks import AlreadyTrained, CollapseGuard, SkipTrained, StopOnSignal, name_of
from redi.data.training_data import load_rows
from redi.engine.agreement import TOLERANCE, relative_error, short_traces
from redi.job import (
    NOTHING_COMPUTED,
    Job,
    check_adapters,
    check_job,
    check_kernel,
    held_out_errors,
    lost_updates,
    read_job,
)
from redi.progress import StepLines
from redi.runs.checkpoints import (
    STARTED,
    is_finished_run,
    last_complete_checkpoint,
    planned_steps,
    read_start,
    refuse_other_world_size,
    run_lock,
    write_start,
)
from redi.runs.cli import has_option
from redi.runs.errors import UsageError, usage_errors
from redi.runs.lock import lock_owner
from redi.runs.manifest import write_manifest
from redi.runs.model_card import write_model_card
from redi.runs.model_folder import attention_of, load_tokenizer
from redi.text.encoding import TODAY, writes_date
from redi.text.training_rows import NAME

UNPUSHED = Path(".cache", "not_pushed")  # exists in a finished run until it is pushed; it must not change its hash


def train(stage: str, argv: list[str]) -> tuple[Dataset, dict[str, int]] | None:
    """Runs a stage with the options of a command line (`--config FILE.yaml`, `--key value`); see `run_training`."""
    return run_training(read_job(stage, argv, assumed=_without_gpu(argv)))


def _without_gpu(argv: list[str]) -> dict[str, Any]:
    """Lets a machine without a GPU check options and tokenise; TrainingArguments refuse bf16, the default, there."""
    computes = not has_option(argv, "tokenize_only", "check_only")
    return {} if computes or torch.cuda.is_available() else NOTHING_COMPUTED


def run_training(job: Job) -> tuple[Dataset, dict[str, int]] | None:
    """Trains, resuming from the last complete checkpoint in `output_dir` if any, and saves the model and its manifest.

    Returns:
        With `tokenize_only`, the tokenised rows and their counts.

    Raises:
        UsageError: an option cannot be used, or `output_dir` holds the result of other options.
        SystemExit: stopped without model and manifest, by the collapse guard (code 3), SIGTERM (143) or Ctrl-C (130).
    """
    started = time.time()
    run, args = job.run, job.args
    folder, is_main = Path(args.output_dir), args.process_index == 0
    if run.tokenize_only and (owner := lock_owner(folder, inside=True)):
        raise UsageError(f"output_dir={folder} is being written by {owner}; wait for it, or stop it")
    job = check_job(job, args.world_size, check_inputs=args.world_size == 1)  # train.sh's first process does
    if job.is_finished:
        _say(args, f"{args.output_dir} is finished already: nothing to do")
        if is_main and not run.check_only and (folder / UNPUSHED).is_file():
            _push(folder, args)
        return None
    if run.check_only:
        _say(args, "the options can be used")
        return None
    if not run.tokenize_only:
        _say(args, job.batch)
        check_kernel(run.attn_implementation)
    _set_loading(job)
    tokenizer = load_tokenizer(run.model_name_or_path)
    if job.lora is not None and "LOCAL_RANK" not in os.environ:  # once, before the launch
        check_adapters(run.model_name_or_path, job.lora)
    if not run.tokenize_only:
        _say(args, _check_weights_dtype(job))
    rows, counts = _load(job, tokenizer, "dataset_name")
    held_out = None
    if job.held_out is not None:
        with held_out_errors():
            held_out, _ = _load(job.held_out, tokenizer, "eval_dataset_name")
        counts["held_out_rows"] = len(held_out)
        _say(args, _shared_rows(rows, held_out))
    if run.tokenize_only:
        _say(args, f"{run.dataset_name}: {len(rows)} of {counts['rows']} rows tokenised, in the datasets cache")
        return rows, counts
    with run_lock(folder) if is_main else nullcontext():
        if is_main and is_finished_run(folder, job.given, run.inputs, check_inputs=False):
            raise UsageError(f"output_dir={folder} was finished by another process meanwhile: nothing to do")
        _run(job, rows, held_out, counts, tokenizer, started)


def _load(job: Job, tokenizer: PreTrainedTokenizerBase, option: str) -> tuple[Dataset, dict[str, int]]:
    """The tokenised rows of a job and their counts; `option` is the one that names them."""
    dataset = load_rows(job.run.dataset_name, job.run.dataset_train_split)
    with usage_errors(str, ValueError):  # rows that cannot be trained on
        return job.stage.prepare(dataset, tokenizer, job.args, f"{option}={job.run.dataset_name}")


def _shared_rows(rows: Dataset, held_out: Dataset) -> str:
    """A warning about held-out rows that are trained on, found by their uuid; empty if there are none."""
    names = [set(each[NAME]) if NAME in each.column_names else set() for each in (rows, held_out)]
    shared = sum(not name.startswith("row ") for name in set.intersection(*names))
    return f"warning: eval_dataset_name: {shared} of {len(held_out)} rows are trained on as well" * bool(shared)


def _run(
    job: Job,
    rows: Dataset,
    held_out: Dataset | None,
    counts: dict[str, int],
    tokenizer: PreTrainedTokenizerBase,
    started: float,
) -> None:
    """Trains on the prepared rows and writes the result."""
    if job.args.local_process_index:
        disable_progress_bar()  # of loading the model
    with usage_errors(str, ValueError, ImportError), usage_errors(_hub_error, HfHubHTTPError, ConnectionError):
        trainer = job.stage.trainer(
            model=job.run.model_name_or_path,
            args=job.args,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=job.lora,
        )
    if job.lora is not None:
        _check_adapters(trainer)
    if trainer.is_world_process_zero():
        write_start(Path(job.args.output_dir), job.given, job.run.inputs, job.args.world_size)
    extra = {"template_date": str(TODAY)} if writes_date(tokenizer) else {}
    with usage_errors(str, FloatingPointError):  # losses, gradients or weights that are NaN or infinite
        _train(trainer)
        _finish(trainer, job, counts, extra, started)


def _set_loading(job: Job) -> None:
    """Sets how the trainer loads the model, and names a run that has no --config."""
    run, args = job.run, job.args
    init = {"dtype": run.dtype, "attn_implementation": attention_of(run.model_name_or_path, run.attn_implementation)}
    args.model_init_kwargs = {**(args.model_init_kwargs or {}), **{k: v for k, v in init.items() if v is not None}}
    args.run_name = args.run_name or "/".join(Path(args.output_dir).resolve().parts[-2:])


def _say(args: TrainingArguments, *lines: str) -> None:
    """Prints the lines that are not empty, in one process."""
    if args.process_index == 0:
        for line in filter(None, lines):
            print(line, flush=True)


def _hub_error(error: Exception) -> str:  # the trainer creates the repository that it will push to
    return f"push_to_hub=True: {error}; set hub_model_id and log in with `hf auth login`"


def _check_weights_dtype(job: Job) -> str:
    """A warning about bfloat16 weights that are the only ones the optimizer has; float16 ones are refused."""
    name = str((job.args.model_init_kwargs or {}).get("dtype", "float32")).removeprefix("torch.")
    if name == "auto":
        name = str(AutoConfig.from_pretrained(job.run.model_name_or_path).dtype).removeprefix("torch.")
    keeps_float32 = job.args.deepspeed_plugin is not None or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if name not in ("bfloat16", "float16") or keeps_float32 or job.lora is not None:
        return ""
    problem = lost_updates(name, job.args.learning_rate)
    if name == "float16":
        raise UsageError(problem)
    return f"warning: {problem}"


def _check_adapters(trainer: Trainer) -> None:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        raise UsageError("lora_r needs unsharded weights: use accelerate_config single_gpu, ddp or zero2")


def _train(trainer: Trainer) -> None:
    """Trains from the last complete checkpoint; raises `SystemExit` if the training was stopped before its end."""
    args = trainer.args
    checkpoint, incomplete = last_complete_checkpoint(args.output_dir)
    if incomplete:
        _say(args, f"skipping incomplete checkpoints: {', '.join(map(str, incomplete))}")
    if checkpoint:
        refuse_other_world_size(checkpoint, args.world_size)
        _say(args, f"resuming from {checkpoint}")
    trainer.add_callback(SkipTrained(planned_steps(checkpoint) if checkpoint else None))
    for shown in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown)
    trainer.add_callback(StepLines)
    disable_progress_bar()  # of saving, under the bar of the steps
    with StopOnSignal() as signals:
        trainer.add_callback(signals)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except AlreadyTrained:
            return
    guards = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, CollapseGuard)]
    if any(guard.stops and guard.collapse for guard in guards):
        code, message = 3, "stopped by collapse_guard; no model was written"
    elif signals.stopped:
        reason, step = name_of(signals.stopped), trainer.state.global_step
        code, message = 128 + signals.stopped, f"stopped by {reason} after step {step}; the same command resumes"
    else:
        return
    _say(args, message)
    # A launcher kills the other ranks as soon as one has ended with an error.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    raise SystemExit(code)


def _finish(trainer: Trainer, job: Job, prepared: dict[str, int], extra: dict[str, Any], started: float) -> None:
    """Writes the model, the log history that the plots read, the manifest and the model card."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    pushes, args.push_to_hub = args.push_to_hub, False  # not yet: the card is still to be written
    if job.lora is None:
        trainer.save_model()
    else:
        _save_merged(trainer)
    if trainer.is_world_process_zero():
        trainer.save_state()
        counts = {
            "rows": prepared["rows"],
            "rows_trained_on": _num_seen(trainer, prepared),
            "steps": trainer.state.global_step,
            "world_size": args.world_size,
            **prepared,
        }
        start = read_start(folder)
        if pushes:
            (folder / UNPUSHED).parent.mkdir(exist_ok=True)
            (folder / UNPUSHED).touch()
        known = {name: entry["sha256"] for name, entry in start["inputs"].items()}
        write_manifest(
            folder,
            config=job.given,
            inputs=job.run.inputs,
            fingerprints=known,
            counts=counts,
            seed=args.seed,
            started=started,
            extra={"starts": start["starts"], **extra},
        )
        (folder / STARTED).unlink()
        write_model_card(folder, trainer._name, trainer.about)
        print(f"wrote {args.output_dir}: model, trainer_state.json, manifest.json, README.md", flush=True)
        if pushes:
            _push(folder, args)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _num_seen(trainer: Trainer, prepared: dict[str, int]) -> int:
    """How many of the rows that were not dropped the steps have seen. An item of the trainer may hold several."""
    args, num_items = trainer.args, len(trainer.train_dataset)
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    kept = prepared["rows"] - prepared.get("dropped_empty", 0) - prepared.get("dropped_long_prompt", 0)
    return round(kept * min(1.0, trainer.state.global_step * per_step / num_items))


def _save_merged(trainer: Trainer) -> None:
    """Writes the adapters to `output_dir/adapter`, and the model with the adapters merged to `output_dir`."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model(str(folder / "adapter"))
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model = merge_adapters(model, short_traces(trainer.processing_class)[0])
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def merge_adapters(model: torch.nn.Module, token_ids: list[int]) -> PreTrainedModel:
    """Merges a PEFT model's adapters into its weights, in place, and compares logits. All ranks must call it.

    Raises:
        UsageError: the merged model is another one, for example because an adapted layer shares its weights.
    """
    model.eval()
    ids = torch.tensor([token_ids], device=model.device)
    with torch.no_grad():
        before = model(input_ids=ids).logits.float()
        merged = model.merge_and_unload()
        error = relative_error([merged(input_ids=ids).logits.float()], [before])
    if error > TOLERANCE.get(merged.dtype, TOLERANCE[torch.float32]):
        raise UsageError(
            f"merging the adapters changes the model: its logits differ by {error:.2g}. The adapters are complete in "
            "output_dir/adapter and can be used unmerged; train others with lora_target_modules"
        )
    return merged


def _push(folder: Path, args: TrainingArguments) -> None:
    name = args.hub_model_id or folder.resolve().name
    remedy = f"the model is complete in {folder}, and the same command pushes it again"
    with usage_errors(lambda error: f"push_to_hub=True: {error}; {remedy}", HfHubHTTPError, ConnectionError):
        repository = create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True).repo_id
        upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=["_*", ".*", "checkpoint-*"],
            commit_message="Trained model, manifest and card",
            token=args.hub_token,
            revision=args.hub_revision,
        )
    (folder / UNPUSHED).unlink()
    print(f"pushed to {repository}", flush=True)
