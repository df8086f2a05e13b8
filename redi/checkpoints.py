"""Which checkpoint of a run can be resumed from: the newest that was written to its end."""

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from redi.runs import UsageError


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
        for path in checkpoint.glob("*.index.json"):  # of a model in several files
            shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
            if not all((checkpoint / shard).is_file() for shard in shards):
                return False
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, framework="pt"):  # compares the header with the size of the file
                pass
        parts = ["rng_state*.pth", "*model*", "optimizer*", "scheduler.pt"]
        if (checkpoint / "latest").is_file():  # DeepSpeed's, written when all ranks have written theirs
            parts = ["rng_state*.pth", (checkpoint / "latest").read_text(encoding="utf-8").strip()]
        if not all(any(checkpoint.glob(part)) for part in parts):
            return False
    except (OSError, ValueError, SafetensorError):
        return False
    # torch.save writes a zip file, whose directory is at its end.
    pickled = [path for path in checkpoint.rglob("*") if path.suffix in (".pt", ".pth", ".bin")]
    return all(zipfile.is_zipfile(path) for path in pickled)
