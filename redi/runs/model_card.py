"""Writes a trained model's card, `README.md`, from the run's manifest and logs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from redi.runs.errors import UsageError
from redi.runs.files import is_hub_id, write_text
from redi.runs.manifest import read_manifest
from redi.runs.markdown import grid

CARD = "README.md"
SCORES = "## Scores"
_PAPER = "[arXiv 2505.24850](https://huggingface.co/papers/2505.24850)"
_METHODS = {
    "SFT": f"Supervised fine-tuning on correct reasoning traces, the first stage of REDI ({_PAPER}).",
    "DPO": f"The DPO baseline of REDI ({_PAPER}).",
}
_METRICS = ["loss", "logps/chosen", "logps/rejected", "grad_norm"]
_HELD_OUT = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "mean_token_accuracy"]


def write_model_card(folder: Path, method: str, about: str | None = None) -> None:
    """Writes the card of a finished run from its manifest and `trainer_state.json`.

    `about` says in a sentence what the method is; SFT and DPO have theirs here.
    """
    manifest = read_manifest(folder)
    inputs = {name: entry["path"] for name, entry in manifest["inputs"].items()}
    data = ModelCardData(
        library_name="transformers",
        tags=sorted({"redi", method.lower()}),
        base_model=inputs["model"] if is_hub_id(inputs["model"]) else None,
    )
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest["counts"].items())
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {folder.resolve().name}",
        about or _METHODS[method],
        f"Trained from `{inputs['model']}` on `{inputs['dataset']}`: {counts}.{_remarks(manifest)}",
        "## Options\n\nThe options that were set; all others have the defaults of the versions below.",
        grid(["option", "value"], [[f"`{key}`", f"`{value}`"] for key, value in manifest["config"].items()]),
        "## Training\n\n" + _dynamics(folder / "trainer_state.json"),
        f"{SCORES}\n\nNot evaluated yet.",
        "## Versions\n\n"
        + ", ".join(f"{name} {version}" for name, version in manifest["packages"].items())
        + f"; git revision {manifest['git_revision']}; seed {manifest['seed']}. See `manifest.json`.",
    ]
    write_text(folder / CARD, "\n\n".join(parts) + "\n")


def _remarks(manifest: dict[str, Any]) -> str:
    """What the counts and options alone would not tell."""
    date = manifest.get("template_date")
    text = f" The chat template's date is always {date}." if date else ""
    for before, after in pairwise(manifest.get("starts", [])):
        keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        changes = [f"`{key}` {before.get(key)} -> {after.get(key)}" for key in keys if key != "after_step"]
        text += f" Resumed after step {after['after_step']}{' with ' * bool(changes)}{', '.join(changes)}."
    return text


def set_scores(folder: Path, scores: str) -> None:
    """Replaces the scores in a card of `write_model_card`; they are Markdown without headings of the second level."""
    path = folder / CARD
    if not path.is_file() or SCORES not in (text := path.read_text(encoding="utf-8")):
        raise UsageError(f"{folder} has no model card with the heading '{SCORES}'; the training commands write it")
    before, after = text.split(SCORES, 1)
    rest = after.partition("\n## ")[2]
    write_text(path, f"{before}{SCORES}\n\n{scores.strip()}\n\n## {rest}")


def _dynamics(state: Path) -> str:
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    held_out = _ends(history, [f"eval_{name}" for name in _HELD_OUT])
    return (_ends(history, _METRICS) or "Nothing was logged.") + f"\n\nOn held-out rows:\n\n{held_out}" * bool(
        held_out
    )


def _ends(history: list[dict[str, float]], metrics: list[str]) -> str:
    """A table of the first and the last log that has the first of the metrics; empty if there is none."""
    logs = [log for log in history if metrics[0] in log]
    names = [name for name in metrics if logs and name in logs[-1]]
    rows = [[f"{log['step']}", *(f"{log[name]:.4g}" for name in names)] for log in logs[:1] + logs[1:][-1:]]
    return grid(["step", *names], rows) if logs else ""
