"""The files of an evaluation folder, which generation, grading and the report pass on to each other."""

import json
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError

GENERATIONS, GRADED, BENCHMARK, SAMPLING = "generations.jsonl", "graded.jsonl", "benchmark.jsonl", "sampling.json"
_OLD_SAMPLING = "generation_config.json"  # until 0.1; Hugging Face's name for something else


def sampling_file(folder: Path) -> Path | None:
    """The file with the options that a folder's answers were sampled with; None if there is none."""
    files = [folder / name for name in (SAMPLING, _OLD_SAMPLING)]
    return next((file for file in files if file.is_file()), None)


def read_sampling(folder: Path) -> dict[str, Any]:
    """The options that a folder's answers were sampled with.

    Raises:
        UsageError: the folder has no such file.
    """
    path = sampling_file(folder)
    if path is None:
        raise UsageError(f"{folder / SAMPLING} does not exist; is {folder} an output of `evaluate.py generate`?")
    return json.loads(path.read_text(encoding="utf-8"))
