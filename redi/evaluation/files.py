"""The files of an evaluation folder: what generation, grading and the report hand on to each other."""

import json
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError

GENERATIONS, GRADED, BENCHMARK, CONFIG = (
    "generations.jsonl",
    "graded.jsonl",
    "benchmark.jsonl",
    "generation_config.json",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The options that a folder's generations were made with."""
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"{path}: no such file; is {folder} an output of `scripts/evaluate.py generate`?")
    return json.loads(path.read_text(encoding="utf-8"))
