"""The pipeline for Table 1, cut down to the quickstart's task."""

import subprocess
import sys
from pathlib import Path

from helpers.paths import REPOSITORY

PIPELINE = str(REPOSITORY / "recipes" / "pipeline.sh")
SFT, REDI = "sft/qwen2.5-math-1.5b_5ep", "redi/qwen2.5-math-1.5b_alpha0.8"
TRAIN = "--use_cpu true --bf16 false --dtype float32 --gradient_checkpointing false --global_batch_size 8"


def cut_down(task: Path) -> dict[str, str]:
    """Makes a small version of the quickstart's corpus, benchmark and model; the pipeline's environment for them."""
    make = [sys.executable, str(REPOSITORY / "scripts/quickstart/make_task.py"), "--output", str(task)]
    subprocess.run([*make, "--num-problems", "60", "--num-test", "4"], check=True, capture_output=True)
    return {
        "CORPUS": str(task / "raw"),
        "BASE_MODEL": str(task / "base"),
        "BENCHMARKS": str(task / "digits.jsonl"),
        "EVALUATE_OPTIONS": "--backend transformers --n 1 --max-tokens 6 --prompt bare",
    }
