"""Room on the disk for what a run leaves there.

Rule: a checkpoint is weights + optimizer state. Kept are all that the run writes, or `save_total_limit` and one more,
since the oldest goes only once the newest is written; and the final model beside them.
"""

import shutil
from pathlib import Path

from redi.preflight.counting import Precision
from redi.preflight.memory import ModelShape
from redi.preflight.recipe import Recipe

STATE_FILES = 10**6  # scheduler, random states, trainer_state.json; with the tokenizer's, less than this and 20 MB
TOKENIZER = 2 * 10**7


def free_bytes(path: Path) -> int:
    """Bytes free where `path` lies, or would."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def checkpoint_bytes(recipe: Recipe, shape: ModelShape, precision: Precision) -> tuple[int, int]:
    """Bytes of a checkpoint and of the final model."""
    w, p, t = precision.weights.itemsize, shape.params, shape.trained
    kind = recipe.strategy.kind
    if kind.startswith("zero"):  # bfloat16 weights; float32 weights and two moments
        weights, state = 2 * p, 12 * t + (0 if kind == "zero3" else 2 * p)  # DeepSpeed writes whole weights again
    elif kind == "fsdp2":  # float32 weights and two moments
        weights, state = 4 * p, 8 * t
    else:
        weights, state = w * p, 2 * w * t
    saved = weights if t == p else 4 * t  # adapters alone, in float32
    return saved + state + STATE_FILES + TOKENIZER, weights + TOKENIZER


def needed_bytes(recipe: Recipe, shape: ModelShape, precision: Precision, saves: int) -> tuple[int, int]:
    """Bytes that the run needs at most at a time, and the number of checkpoints that lie there then."""
    limit = recipe.args.save_total_limit
    kept = saves if limit is None else min(saves, limit + 1)
    checkpoint, final = checkpoint_bytes(recipe, shape, precision)
    return kept * checkpoint + final, kept
