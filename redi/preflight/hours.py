"""Floating-point operations and hours of a run: FLOPs / (GPUs * peak * utilisation).

FLOPs are those that the objective needs, per trace of n tokens of which s are scored:

    6 * body parameters * n + 6 V H s + 6 L A n^2     (A = heads * head size; causal attention)

with 4 instead of 6 if only adapters are trained, and a third more for DPO's reference model. Pads and what gradient
checkpointing recomputes are not counted: they lower the utilisation.

The default utilisation is what the paper's Table 5 implies for the same stage, on 8 A100 with a dense bfloat16 peak of
312 TFLOP/s and Qwen2.5-Math-1.5B. The paper gives no mean lengths. ASSUMED are the means of the lengths that the
benchmark bench_balance.py draws; the implied utilisation is nearly proportional to them.
"""

from redi.losses import OBJECTIVES
from redi.preflight.memory import ModelShape
from redi.preflight.recipe import A100_TFLOPS, Machine, Recipe
from redi.preflight.report import Report
from redi.stages import STAGES

PARAMS = 1_543_714_304
QWEN_1_5B = ModelShape(
    params=PARAMS, trained=PARAMS, layer=46_797_824, layers=28, hidden=1536, vocab=151_936, attention=1536, tied=True
)
# Mean tokens of prompts and of chosen and rejected completions, and E[n^2] / E[n]^2 of the traces' lengths.
ASSUMED = {"prompt": 420, "chosen": 4100, "rejected": 5250}
SQUARE_RATIO = 1.45
# https://huggingface.co/papers/2505.24850, Table 5: stage, epochs, rows of an epoch, hours on 8 A100.
TABLE_5 = {
    "SFT 3 epochs": ("sft", 3, 77_629, 8.0),
    "SFT 5 epochs": ("sft", 5, 77_629, 13.0),
    "DPO": ("dpo", 1, 53_175, 5 + 10 / 60),
    "SimPO": ("simpo", 1, 53_175, 4 + 50 / 60),
    "REDI": ("redi", 1, 53_175, 4 + 10 / 60),
}


def training_flops(shape: ModelShape, tokens: float, squares: float, prompts: float) -> float:
    """FLOPs of training on traces without a reference model, from the sums of their lengths, of the squares of those,
    and of the prompts' lengths, which are not scored."""
    factor = 6 if shape.trained == shape.params else 4
    head = shape.vocab * shape.hidden * max(0.0, tokens - prompts)
    return factor * (shape.layers * shape.layer * tokens + head) + 6 * shape.layers * shape.attention * squares


def implied_utilisation(row: str) -> tuple[float, float]:
    """(FLOPs, share of the peak) that a row of Table 5 implies under `ASSUMED`."""
    stage, epochs, num_rows, hours = TABLE_5[row]
    sides = ["chosen"] if stage == "sft" else ["chosen", "rejected"]
    means = [ASSUMED["prompt"] + ASSUMED[side] for side in sides]
    squares = num_rows * sum(SQUARE_RATIO * mean**2 for mean in means)
    prompts = num_rows * len(means) * ASSUMED["prompt"]
    flops = epochs * training_flops(QWEN_1_5B, num_rows * sum(means), squares, prompts)
    flops *= 4 / 3 if STAGES[stage].has_reference else 1
    return flops, flops / (8 * A100_TFLOPS * 1e12 * hours * 3600)


def report_hours(report: Report, recipe: Recipe, machine: Machine, flops: float) -> None:
    if recipe.strategy.on_cpu:
        report.value("time", f"not predicted on the CPU; {flops:.2g} FLOPs")
        return
    if recipe.name == "sft":
        row = "SFT 5 epochs" if recipe.args.num_train_epochs >= 4 else "SFT 3 epochs"
    else:
        row = "DPO" if recipe.name == "dpo" else OBJECTIVES[recipe.args.objective].title
    row = row if row in TABLE_5 else "REDI"
    utilisation = machine.utilisation or implied_utilisation(row)[1]
    source = "" if machine.utilisation else f", the paper's for {row}"
    hours = flops / (recipe.strategy.gpus * machine.tflops * 1e12 * utilisation) / 3600
    rate = f"{recipe.strategy.gpus} x {machine.tflops:g} TFLOP/s at {utilisation:.1%} utilisation{source}"
    report.value("time", f"{hours:.1f} h: {flops:.2g} FLOPs on {rate}")
