"""Disk space of checkpoints, by hand."""

from pathlib import Path

import torch

from redi.preflight import disk
from redi.preflight.counting import Precision
from redi.preflight.hours import QWEN_1_5B
from redi.preflight.recipe import read_recipe

pytest_plugins = ["helpers.preflight"]


BF16 = Precision(torch.bfloat16, autocast=True)


def test_room_for_checkpoints_by_hand(job):
    """ZeRO-2: bytes a parameter are 2 of weights, 2 of DeepSpeed's copy and 12 of optimizer state; 3 lie there."""
    shape = QWEN_1_5B
    few = read_recipe(job.config(), ["--save_total_limit", "2"], 4)
    checkpoint = 16 * shape.params + disk.STATE_FILES + disk.TOKENIZER
    final = 2 * shape.params + disk.TOKENIZER
    assert disk.needed_bytes(few, shape, BF16, saves=9) == (3 * checkpoint + final, 3)
    every = read_recipe(job.config(), [], 4)
    assert disk.needed_bytes(every, shape, BF16, saves=9) == (9 * checkpoint + final, 9)
    assert disk.free_bytes(Path("/no/such/folder")) > 0
