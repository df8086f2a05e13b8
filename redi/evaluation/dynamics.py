"""Training dynamics from trainer logs: LogPS of both sides and gradient norm against the step (paper, Fig. 5)."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from redi.evaluation.plots import COLORS
from redi.runs import UsageError

PANELS = {
    "logps/chosen": "chosen LogPS (nats per token)",
    "logps/rejected": "rejected LogPS (nats per token)",
    "grad_norm": "gradient norm, before clipping",
}


def read_log(run: Path) -> list[dict[str, float]]:
    """The logged steps of a finished run or of its latest checkpoint.

    Raises:
        UsageError: the folder holds no trainer_state.json, or its log has no pair metrics.
    """
    checkpoints = sorted(run.glob("checkpoint-*/trainer_state.json"), key=_step)
    path = next((state for state in [run / "trainer_state.json", *reversed(checkpoints)] if state.is_file()), None)
    if path is None:
        raise UsageError(f"{run} holds no trainer_state.json: it is no training run, or has saved no checkpoint yet")
    log = [entry for entry in json.loads(path.read_text(encoding="utf-8"))["log_history"] if "loss" in entry]
    # DPOTrainer logs `logps/*` too, but as sums over the tokens, which do not belong on the same axis.
    if not log or not {"logps/chosen", "completions/mean_length/chosen"} <= log[0].keys():
        raise UsageError(f"{path} logs no LogPS a token: dynamics are drawn of REDI and SimPO runs")
    return log


def _step(state: Path) -> int:
    return int(state.parent.name.removeprefix("checkpoint-"))


def plot_dynamics(runs: dict[str, Path], output: Path) -> None:
    """Draws one panel per quantity with one line per run into a PNG.

    Args:
        runs: label -> folder of the run.
        output: the PNG to write.
    """
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.6), layout="constrained")
    for number, (label, folder) in enumerate(runs.items()):
        log = read_log(folder)
        color, style = COLORS[number % len(COLORS)], ["-", "--", ":"][number // len(COLORS) % 3]
        for axis, key in zip(axes, PANELS, strict=True):
            points = [(entry["step"], entry[key]) for entry in log if key in entry]  # alpha 0 logs no rejected LogPS
            axis.plot(
                [step for step, _ in points],
                [value for _, value in points],
                color=color,
                linestyle=style,
                label=label,
                linewidth=1.6,
            )
    for axis, title in zip(axes, PANELS.values(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    # Both LogPS in one scale, so that the two can be compared by eye.
    limits = [axis.get_ylim() for axis in axes[:2]]
    for axis in axes[:2]:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[2].set_ylim(bottom=0)
    if len(runs) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(runs)), frameon=False
        )
    else:
        figure.suptitle(next(iter(runs)), fontsize=11)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    plt.close(figure)
