"""Training dynamics: logged quantities and checkpoint evaluations by step (the paper's Figs. 3 and 5 to 8)."""

import glob
import json
import re
from dataclasses import replace
from pathlib import Path

from redi.evaluation.files import GRADED
from redi.evaluation.reporting.figures import CHOSEN, HELD_OUT, MARGIN, REJECTED, Panels, Points, plot_panels
from redi.evaluation.reporting.scores import check_comparable, name_folders, read_graded
from redi.evaluation.reporting.statistics import summarize_scores
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.jsonl import parse_line

EVALUATED = {  # title and factor
    "pass_at_1": ("{} pass@1 (%)", 100),
    "mean_tokens": ("mean tokens a response", 1),
    "waits_per_response": ('"Wait" a response', 1),
    "waits_per_token": ('"Wait" per 1,000 tokens', 1000),
}


def read_log(run: Path) -> list[dict[str, float]]:
    """What a finished run, or its latest checkpoint, has logged of its steps and of held-out rows (`eval_*`)."""
    checkpoints = [path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal()]
    checkpoints.sort(key=lambda path: -int(path.name[11:]))
    paths = [folder / "trainer_state.json" for folder in (run, *checkpoints)]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        raise UsageError(f"{run} has no trainer_state.json: not a training run, or no checkpoint was saved yet")
    history = parse_line(path.read_bytes(), str(path), ["log_history"])["log_history"]
    if not any("loss" in entry for entry in history):
        raise UsageError(f"{path}: no step was logged")
    return [entry for entry in history if "loss" in entry or "eval_loss" in entry]


def logged_panels(runs: dict[str, Path]) -> Panels:
    """LogPS of both sides, or of SFT runs loss and accuracy; their held-out values; and a norm.

    The norm is `update_norm`, the paper's gradient step size, if every run logged it. With held-out pairs there is
    also the margin. Refuses SFT among other runs, and logs whose `logps` are sums over tokens.
    """
    logs = {label: read_log(folder) for label, folder in runs.items()}
    logged = [set().union(*log) for log in logs.values()]
    if not any("logps/chosen" in keys for keys in logged):
        panels = {"loss": "loss (nats per token)", "mean_token_accuracy": "share of tokens that are the likeliest"}
    else:
        for label, keys in zip(runs, logged, strict=True):
            # TRL's DPOTrainer logs `logps/*` as sums over the tokens, and no lengths: not for the same axis.
            if not {"logps/chosen", "completions/mean_length/chosen"} <= keys:
                raise UsageError(
                    f"{runs[label]} has no per-token LogPS; REDI, SimPO and DPO runs of this version log them"
                )
        panels = {"logps/chosen": CHOSEN, "logps/rejected": REJECTED}
        if any("eval_logps/chosen" in keys for keys in logged):
            panels["margin"] = MARGIN
    has_updates = all("update_norm" in keys for keys in logged)
    panels |= {"update_norm": "update norm"} if has_updates else {"grad_norm": "gradient norm, before clipping"}
    lines = {title: {label: _points(log, key) for label, log in logs.items()} for key, title in panels.items()}
    for key, title in panels.items():
        held_out = {label + HELD_OUT: _points(log, key, "eval_") for label, log in logs.items()}
        lines[title] |= {label: points for label, points in held_out.items() if points}
    return lines


def _points(log: list[dict[str, float]], key: str, prefix: str = "") -> Points:
    """The logged values by step. alpha 0 logs no rejected LogPS of the rows that it trains on."""
    if key == "margin":
        sides = [dict(_points(log, f"logps/{side}", prefix)) for side in ("chosen", "rejected")]
        return [(step, sides[0][step] - rejected) for step, rejected in sides[1].items()]
    return [(entry["step"], entry[prefix + key]) for entry in log if prefix + key in entry]


def evaluated_panels(runs: dict[str, Path], benchmark: str, suffix: str | None = None) -> Panels:
    """Accuracy, length and "Wait" of the checkpoints that `evaluate.py run RUN --every-checkpoint` evaluated.

    Refuses runs without any graded checkpoint, and checkpoints whose protocols or problems differ.
    """
    panels: Panels = {title.format(benchmark): {label: [] for label in runs} for title, _ in EVALUATED.values()}
    first = None
    for label, run in runs.items():
        for step, folder in evaluation_folders(run, suffix):
            graded = read_graded(folder, folder.name)
            if benchmark not in graded.scores:
                raise UsageError(f"--benchmark {benchmark}: {folder} has {', '.join(graded.scores)}")
            graded = replace(graded, scores={benchmark: graded.scores[benchmark]})
            first = first or graded
            check_comparable(first, graded)
            numbers = summarize_scores(graded.scores[benchmark])
            for key, (title, factor) in EVALUATED.items():
                if numbers[key] is not None:
                    panels[title.format(benchmark)][label].append((step, numbers[key] * factor))
    if first is None:
        places = ", ".join(str(run.parent / "evaluation") for run in runs.values())
        remedy = "run `evaluate.py run RUN --every-checkpoint` first"
        raise UsageError(f"--runs: no graded checkpoint in {places}; {remedy}")
    return panels


def evaluation_folders(run: Path, suffix: str | None = None) -> list[tuple[int, Path]]:
    """The steps and graded folders of a run's checkpoints, as `evaluate.py run` names them.

    `suffix` is what options other than the usual added to the names; by default nothing, or what all names have.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in run.parent.glob(f"evaluation/{glob.escape(run.name)}_checkpoint-*/{GRADED}"):
        step, after = re.match(r"(\d*)(.*)", path.parent.name.removeprefix(f"{run.name}_checkpoint-")).groups()
        if step:
            found.setdefault(after.removeprefix("_"), []).append((int(step), path.parent))
    if suffix is None and "" not in found and len(found) == 1:
        suffix = next(iter(found))
    if found and (suffix or "") not in found:
        with_options = f"{run}'s checkpoints were evaluated with {', '.join(sorted(found))}"
        raise UsageError(f"--suffix {suffix or 'is needed'}: {with_options}")
    return sorted(found.get(suffix or "", []))


def reproduce_dynamics(runs: list[Path], output: Path, benchmark: str, suffix: str | None = None) -> None:
    """Writes `training_dynamics.png`: the paper's four panels and those of the responses; and the numbers as JSON."""
    named = {name: run.resolve() for name, run in name_folders([str(run) for run in runs], "--runs").items()}
    evaluated = evaluated_panels(named, benchmark, suffix)
    accuracy, *responses = evaluated
    panels = {accuracy: evaluated[accuracy], **logged_panels(named)} | {title: evaluated[title] for title in responses}
    output.mkdir(parents=True, exist_ok=True)
    plot_panels(panels, output / "training_dynamics.png", columns=4)
    write_text(output / "training_dynamics.json", json.dumps(panels, indent=1) + "\n")
    print(f"wrote {output / 'training_dynamics.png'} and training_dynamics.json")


def plot_dynamics(runs: dict[str, Path], output: Path) -> None:
    """Draws logged quantities of labelled runs to a PNG, one panel per quantity and one line per run."""
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_panels(logged_panels(runs), output, columns=3)
