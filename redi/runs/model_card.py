"""Writes the card of a model or of an unfinished run, `README.md`, from the run's records and logs."""

import json
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from redi.runs.checkpoints import read_start
from redi.runs.errors import UsageError
from redi.runs.files import is_hub_id, write_text
from redi.runs.manifest import read_manifest
from redi.runs.markdown import grid

CARD = "README.md"
SCORES = "## Scores"
_PAPER = "[arXiv 2505.24850](https://huggingface.co/papers/2505.24850)"
_METRICS = ["loss", "logps/chosen", "logps/rejected", "grad_norm"]
_HELD_OUT = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies", "mean_token_accuracy"]


def describe_loss(method: str, part: str, args: Any, options: tuple[str, ...]) -> str:
    """A sentence for the card: the method and its part in the paper, or the loss options that are not the defaults."""
    defaults = {option.name: option for option in fields(args) if option.name in options}
    changed = []
    for name, option in defaults.items():
        default = option.default if option.default_factory is MISSING else option.default_factory()
        changed += [f"`{name}` {value}"] if (value := getattr(args, name)) != default else []
    return (
        f"{method} with {', '.join(changed)}, unlike {part} ({_PAPER})."
        if changed
        else f"{method}, {part} ({_PAPER})."
    )


def write_model_card(folder: Path, method: str, about: str) -> None:
    """Writes the card of a finished run, from its manifest and `trainer_state.json`; `about` describes the method."""
    manifest = read_manifest(folder)
    inputs = {name: entry["path"] for name, entry in manifest["inputs"].items()}
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest["counts"].items())
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    parts = [
        f"Trained from `{inputs['model']}` on `{inputs['dataset']}`: {counts}.{_remarks(manifest)}",
        _options(manifest),
        _dynamics(log),
        f"{SCORES}\n\nNot evaluated yet.",
        "## Versions\n\n"
        + ", ".join(f"{name} {version}" for name, version in manifest["packages"].items())
        + f"; git revision {manifest['git_revision']}; seed {manifest['seed']}. See `manifest.json`.",
    ]
    _write(folder, method, inputs["model"], [about, *parts])


def write_checkpoint_card(folder: Path, method: str, about: str, model: str, state: Any) -> None:
    """Writes the card of a folder whose run has checkpoints but no final model; `state` is the trainer's.

    Args:
        model: folder or Hub id of the start model, unless `write_start` has recorded it.
    """
    start = read_start(folder)
    text = f"Step {state.global_step:,} of {state.max_steps:,}"
    if start is not None:
        text += (
            ". **This run has not finished**: there are checkpoints, but no final model. The same command resumes it"
        )
        model = start["inputs"]["model"]["path"]
    parts = [f"{text}.", about, f"The start model is `{model}`.", *([_options(start)] if start else [])]
    _write(folder, method, model, [*parts, _dynamics(state.log_history)])


def _write(folder: Path, method: str, model: str, parts: list[str]) -> None:
    base_model = model if is_hub_id(model) else None
    data = ModelCardData(library_name="transformers", tags=sorted({"redi", method.lower()}), base_model=base_model)
    head = [f"---\n{data.to_yaml()}\n---", f"# {folder.resolve().name}"]
    write_text(folder / CARD, "\n\n".join([*head, *parts]) + "\n")


def _options(record: dict[str, Any]) -> str:
    rows = [[f"`{key}`", f"`{value}`"] for key, value in record["config"].items()]
    title = "## Options\n\nThe options that were set; all others have the defaults of the versions in use."
    return f"{title}\n\n{grid(['option', 'value'], rows)}"


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


def _dynamics(log_history: list[dict[str, float]]) -> str:
    parts = ["## Training", _ends(log_history, _METRICS) or "Nothing was logged."]
    if held_out := _ends(log_history, [f"eval_{name}" for name in _HELD_OUT]):
        parts += ["On held-out rows:", held_out]
    return "\n\n".join(parts)


def _ends(log_history: list[dict[str, float]], metrics: list[str]) -> str:
    """A table of the first and the last log that has the first of the metrics; empty if there is none."""
    logs = [log for log in log_history if metrics[0] in log]
    names = [name for name in metrics if logs and name in logs[-1]]
    rows = [[f"{log['step']}", *(f"{log[name]:.4g}" for name in names)] for log in logs[:1] + logs[1:][-1:]]
    return grid(["step", *names], rows) if logs else ""
