"""Disk space that a run needs at its worst moment.

A checkpoint is weights and optimizer state. All checkpoints of a run are kept, or `save_total_limit` of them and one
more, because the oldest is deleted only after the newest is written. The final model comes on top.
"""

import shutil
from pathlib import Path

from redi.preflight.counting import Precision
from redi.preflight.memory import ModelShape
from redi.preflight.recipe import Model, Recipe
from redi.preflight.report import Report
from redi.runs.errors import UsageError

STATE_FILES = 10**6  # scheduler, random states and trainer_state.json are smaller than this
TOKENIZER = 2 * 10**7  # its files are smaller than this


def check_disk(report: Report, recipe: Recipe, model: Model, saves: int) -> None:
    """Prints what the run keeps on the disk; `saves` is the number of checkpoints that it writes.

    Raises:
        UsageError: the disk has less space.
    """
    needed, kept = needed_bytes(recipe, model.shape, model.precision, saves)
    one, final = checkpoint_bytes(recipe, model.shape, model.precision)
    free = free_bytes(Path(recipe.args.output_dir))
    limit = recipe.args.save_total_limit
    rule = f"all {saves} are kept" if limit is None else f"save_total_limit={limit}, and one more during a save"
    report.value("checkpoints", f"{kept} of {one / 1e9:.2f} GB each (weights and optimizer state): {rule}")
    report.value("final model", f"{final / 1e9:.2f} GB")
    text = f"needs up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if needed > free:
        fewer = "" if kept <= 2 else "set a small save_total_limit or a larger save_steps, or "
        raise UsageError(f"output_dir={recipe.args.output_dir} {text}; {fewer}choose another disk")
    report.ok(text)


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path`, which need not exist."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def checkpoint_bytes(recipe: Recipe, shape: ModelShape, precision: Precision) -> tuple[int, int]:
    """Bytes of a checkpoint, and of the final model."""
    w, p, t = precision.weights.itemsize, shape.params, shape.trained
    kind = recipe.strategy.kind
    if kind.startswith("zero"):  # bfloat16 weights; float32 weights and two moments
        weights, state = 2 * p, 12 * t + (0 if kind == "zero3" else 2 * p)  # DeepSpeed writes all weights again
    elif kind == "fsdp2":  # float32 weights and two moments
        weights, state = 4 * p, 8 * t
    else:
        weights, state = w * p, 2 * w * t
    saved = weights if t == p else 4 * t  # adapters alone, in float32
    return saved + state + STATE_FILES + TOKENIZER, weights + TOKENIZER


def needed_bytes(recipe: Recipe, shape: ModelShape, precision: Precision, saves: int) -> tuple[int, int]:
    """Bytes that the run needs at its worst moment, and the number of checkpoints that exist then."""
    limit = recipe.args.save_total_limit
    kept = saves if limit is None else min(saves, limit + 1)
    checkpoint, final = checkpoint_bytes(recipe, shape, precision)
    return kept * checkpoint + final, kept
