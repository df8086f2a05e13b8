"""What lies in a run's folder: the finished run, or a start and checkpoints, of which the newest whole one counts."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, write_text
from redi.runs.manifest import read_manifest
from redi.runs.model_folder import find_damage

STARTED = "started.json"  # options and inputs of a run that is not finished
# What a resumed run may change: how long, how often it says or saves something, and what fits the machine.
_MAY_CHANGE = ("max_steps", "save_", "logging_", "log_", "eval_", "report_to", "run_name", "disable_tqdm")
_MAY_CHANGE += ("max_tokens_per_micro_batch", "gradient_checkpointing", "attn_implementation", "dataset_num_proc")
_MAY_CHANGE += ("dataloader_", "push_to_hub", "hub_", "ddp_", "collapse_", "use_cpu", "bf16")


def write_start(folder: Path, given: dict[str, Any], inputs: dict[str, str]) -> None:
    """Notes the options and the inputs, with their fingerprints, of a run that begins or goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {name: {"path": path, "sha256": fingerprint(path)} for name, path in inputs.items()}
    write_text(folder / STARTED, json.dumps({"config": given, "inputs": hashes}, indent=2, default=str) + "\n")


def read_start(folder: Path) -> dict[str, Any] | None:
    """What `write_start` has noted; None where it has not."""
    path = folder / STARTED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def is_finished_run(args: TrainingArguments, given: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether `output_dir` holds this very run, finished.

    Args:
        args: the trainer's options.
        given: the options that were set.
        inputs: name -> path or Hub id of what the run starts from.

    Raises:
        UsageError: it holds the result of another run, or checkpoints of one that was started with other options or
            from other inputs.
    """
    manifest, folder = read_manifest(args.output_dir), Path(args.output_dir)
    record, what = manifest, "a finished run"
    if manifest is None and last_complete_checkpoint(folder)[0] is not None:
        record, what = read_start(folder), "checkpoints of a run"
    if record is None:
        return False
    remedy = "choose another output_dir or remove that one"
    wanted = json.loads(json.dumps(given, default=str))  # as the record gives it back
    for key in sorted(record["config"].keys() | wanted.keys()):
        before, now = record["config"].get(key), wanted.get(key)
        if before != now and (manifest is not None or not _may_change(key, given)):
            raise UsageError(f"output_dir={folder} holds {what} with {key}={before}, not {now}; {remedy}")
    if args.world_size == 1:  # so train.sh's first process alone: reading a large model takes a while
        for name, path in inputs.items():
            if Path(path).exists() and record["inputs"][name]["sha256"] != fingerprint(path):
                raise UsageError(f"output_dir={folder} holds {what} from another {name} than {path} is now; {remedy}")
    if manifest is not None and args.process_index == 0:
        print(f"{args.output_dir} is finished already: nothing to do", flush=True)
    return manifest is not None


def _may_change(key: str, given: dict[str, Any]) -> bool:
    """Whether a run may be gone on with under another value of an option: it is the same run, on another machine."""
    if key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        return "global_batch_size" in given
    return key.startswith(_MAY_CHANGE)


def last_complete_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint to resume from, and the newer ones that a kill cut off, which are left as they are."""
    checkpoints = {
        int(match[1]): path
        for path in Path(output_dir).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    }
    incomplete = []
    for _, path in sorted(checkpoints.items(), reverse=True):
        if _is_complete(path):
            return path, incomplete
        incomplete.append(path)
    return None, incomplete


def refuse_other_world_size(checkpoint: Path, world_size: int) -> None:
    """Refuses a checkpoint of DeepSpeed's that another number of processes has written; it holds a part for each.

    Raises:
        UsageError: so it is.
    """
    saved = len(list(checkpoint.glob("rng_state_*.pth"))) or 1  # one process leaves rng_state.pth
    if (checkpoint / "latest").is_file() and saved != world_size:
        raise UsageError(
            f"output_dir={checkpoint.parent}: {checkpoint.name} was written by {saved} process(es), this run has "
            f"{world_size}, and DeepSpeed cannot share its state out anew; use {saved} GPU(s), or another output_dir"
        )


def _is_complete(checkpoint: Path) -> bool:
    """Whether all that a resume reads is there and readable to its end; reads little of each file.

    transformers 5.19 writes model, optimizer, scheduler, random states and at last `trainer_state.json`, in place. So
    without that file the rest is cut off, but with it a file may still be, on a disk that lost what was not flushed.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if find_damage(checkpoint):
            return False
        parts = ["rng_state*.pth", "*model*", "optimizer*", "scheduler.pt"]
        if (checkpoint / "latest").is_file():  # DeepSpeed's, written when all ranks have written theirs
            parts = ["rng_state*.pth", (checkpoint / "latest").read_text(encoding="utf-8").strip()]
        if not all(any(checkpoint.glob(part)) for part in parts):
            return False
    except (OSError, ValueError):
        return False
    # torch.save writes a zip file, whose directory is at its end.
    pickled = [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin")]
    return all(zipfile.is_zipfile(path) for path in pickled)
