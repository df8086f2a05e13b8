"""A run's folder: the record of its start, its checkpoints, and whether it holds the finished run."""

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import MANIFEST, STARTED, fingerprint, write_text
from redi.runs.lock import folder_lock
from redi.runs.manifest import read_manifest
from redi.runs.model_folder import find_damage

# What a resumed run may change: its length, how often it logs or saves, and what depends on the machine.
_MAY_CHANGE = ("max_steps", "save_", "logging_", "log_", "eval_", "report_to", "run_name", "disable_tqdm")
_MAY_CHANGE += ("max_tokens_per_micro_batch", "gradient_checkpointing", "attn_implementation", "dataset_num_proc")
_MAY_CHANGE += ("dataloader_", "push_to_hub", "hub_", "ddp_", "collapse_", "use_cpu", "bf16")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder, which is created, and removed again if it stays empty; see `folder_lock`."""
    with usage_errors(lambda error: f"output_dir={folder} cannot be made: {error}; choose another folder", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with folder_lock(folder, inside=True):
            yield
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()


def write_start(folder: Path, given: dict[str, Any], inputs: dict[str, str], world_size: int = 1) -> None:
    """Records the options of a run that starts or resumes, and its inputs with their fingerprints.

    `starts` has an entry for each start whose steps are kept: the step it went on from, and what another start may
    change.
    """
    hashes = {name: {"path": path, "sha256": fingerprint(path)} for name, path in inputs.items()}
    checkpoint = last_complete_checkpoint(folder)[0]
    step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    earlier = [entry for entry in (read_start(folder) or {}).get("starts", []) if entry["after_step"] < step]
    options = {key: value for key, value in given.items() if _may_change(key, given)}
    starts = [*earlier, {"after_step": step, "world_size": world_size, **options}]
    record = {"config": given, "inputs": hashes, "starts": starts}
    write_text(folder / STARTED, json.dumps(record, indent=2, default=str) + "\n")


def read_start(folder: Path) -> dict[str, Any] | None:
    """What `write_start` has recorded; None if it has not."""
    return read_manifest(folder, "config", "inputs", name=STARTED)


def is_finished_run(folder: Path, given: dict[str, Any], inputs: dict[str, str], check_inputs: bool) -> bool:
    """Whether a folder holds exactly this run, finished; `inputs` are names and paths of what the run starts from.

    `check_inputs` compares the content of the inputs too, which takes a while for a large model.

    Raises:
        UsageError: it holds the result of another run, or has begun one with other options or inputs.
    """
    manifest = read_manifest(folder, "config", "inputs")
    record, what = manifest or read_start(folder), "an unfinished run" if manifest is None else "a finished run"
    if record is None:
        return False
    remedy = "choose another output_dir or remove that one"
    wanted = json.loads(json.dumps(given, default=str))  # as the record holds it
    for key in sorted(record["config"].keys() | wanted.keys()):
        before, now = record["config"].get(key), wanted.get(key)
        if before != now and (manifest is not None or not _may_change(key, given)):
            raise UsageError(f"output_dir={folder} holds {what} with {key}={before}, not {now}; {remedy}")
    for name, path in inputs.items() if check_inputs else ():
        if Path(path).exists() and record["inputs"][name]["sha256"] != fingerprint(path):
            raise UsageError(f"output_dir={folder} holds {what} from another {name}: {path} has changed; {remedy}")
    return manifest is not None


def refuse_foreign_folder(folder: Path, inputs: dict[str, str]) -> None:
    """Refuses an `output_dir` in which a run would overwrite what is not its own.

    A run's folder holds `manifest.json`, `started.json` or a checkpoint. Hidden files and logs are not overwritten.

    Raises:
        UsageError: the folder is a file, an input of the run, or holds other files.
    """
    for name, path in inputs.items():
        if Path(path).exists() and folder.exists() and folder.samefile(path):
            raise UsageError(f"output_dir={folder} is the {name} that the run starts from; choose another output_dir")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir={folder} is a file; choose another output_dir")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if any(name in (MANIFEST, STARTED) or name.startswith("checkpoint-") for name in names):
        return
    others = [name for name in names if not name.startswith(".") and "log" not in name.lower()]
    if others:
        raise UsageError(
            f"output_dir={folder} holds files that are not a run's, such as {others[0]}; choose another output_dir"
        )


def _may_change(key: str, given: dict[str, Any]) -> bool:
    """Whether a run may resume with another value of an option: it is the same run, on another machine."""
    if key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        return "global_batch_size" in given
    return key.startswith(_MAY_CHANGE)


def complete_checkpoints(run: str | Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints whose model is complete, in order of their steps, and those whose is not."""
    found = {path: _has_model(path) for path in _checkpoints(run)}
    return [path for path in found if found[path]], [path for path in found if not found[path]]


def _checkpoints(run: str | Path) -> list[Path]:
    found = {
        int(match[1]): path
        for path in Path(run).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    }
    return [path for _, path in sorted(found.items())]


def _has_model(checkpoint: Path) -> bool:
    """Whether `trainer_state.json`, which is written last, can be read, and the weights are undamaged."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return find_damage(checkpoint) is None
    except (OSError, ValueError):
        return False


def last_complete_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[Path]]:
    """The newest complete checkpoint, and the newer ones that a kill cut off; those are left on the disk."""
    incomplete = []
    for path in reversed(_checkpoints(output_dir)):
        if _is_complete(path):
            return path, incomplete
        incomplete.append(path)
    return None, incomplete


def planned_steps(checkpoint: Path) -> int:
    """The number of steps of the run that wrote a checkpoint."""
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["max_steps"]


def refuse_other_world_size(checkpoint: Path, world_size: int) -> None:
    """Refuses a DeepSpeed checkpoint from another number of processes: it holds one part for each of them."""
    saved = len(list(checkpoint.glob("rng_state_*.pth"))) or 1  # one process leaves rng_state.pth
    if (checkpoint / "latest").is_file() and saved != world_size:
        raise UsageError(
            f"output_dir={checkpoint.parent}: {checkpoint.name} was written by {saved} process(es), but this run has "
            f"{world_size}, and DeepSpeed cannot redistribute its state; use {saved} GPU(s), or another output_dir"
        )


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file that resuming reads exists and is complete; reads only a little of each file."""
    # transformers 5.19 writes trainer_state.json last. The others can still be cut off: disks lose unflushed data.
    try:
        if not _has_model(checkpoint):
            return False
        parts = ["rng_state*.pth", "*model*", "optimizer*", "scheduler.pt"]
        if (checkpoint / "latest").is_file():  # DeepSpeed writes it after all ranks' parts
            parts = ["rng_state*.pth", (checkpoint / "latest").read_text(encoding="utf-8").strip()]
        if not all(any(checkpoint.glob(part)) for part in parts):
            return False
    except (OSError, ValueError):
        return False
    # torch.save writes a zip file, whose directory is at its end.
    pickled = [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin")]
    return all(zipfile.is_zipfile(path) for path in pickled)
