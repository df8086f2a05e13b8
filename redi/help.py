"""The help of training, one text a stage: REDI's own options first, then the usual ones of its trainer.

`python -m redi.help` writes configs/help/STAGE.txt, which --help prints: that needs no package and no time.
"""

import inspect
import textwrap
from dataclasses import MISSING, fields
from typing import Any

from redi.job import RunArguments
from redi.runs.files import CONFIGS
from redi.stages import STAGES

WIDTH = 100
USUAL = {
    "Length and batch": {
        "output_dir": "Where the run writes, and resumes.",
        "num_train_epochs": "Epochs over the rows.",
        "max_steps": "Steps, instead of epochs.",
        "max_length": "Longest trace in tokens; longer ones are cut at the end and counted.",
        "packing": "Pack conversations into rows of max_length with TRL, which changes the batch.",
        "per_device_train_batch_size": "Rows on one process at a time.",
        "gradient_accumulation_steps": "Micro-batches of a step; follows from global_batch_size if that is set.",
    },
    "Optimizer": {
        "learning_rate": "Peak learning rate.",
        "lr_scheduler_type": "linear, cosine, constant_with_warmup and others.",
        "warmup_steps": "Steps of warm-up; below 1, a share of all steps.",
        "weight_decay": "Of AdamW.",
        "max_grad_norm": "Gradients are clipped to this norm.",
        "beta": "DPO's beta.",
        "seed": "Of the order of the rows, and everything else that is random.",
    },
    "Memory and precision": {
        "bf16": "Compute in bfloat16; the weights have `dtype`. The default on a GPU.",
        "use_cpu": "Train on the CPU, by default in float32. Chosen by itself where there is no GPU.",
        "gradient_checkpointing": "Recompute activations in the backward pass: less memory, more time.",
    },
    "Saving and logging": {
        "save_strategy": "steps, epoch or no.",
        "save_steps": "Steps between checkpoints; below 1, a share of all steps.",
        "save_total_limit": "Checkpoints that are kept; without it, all.",
        "logging_steps": "Steps between logs.",
        "report_to": "wandb, trackio, tensorboard or none.",
        "push_to_hub": "Push the finished model to hub_model_id.",
    },
}


def training_help(stage: str) -> str:
    """The text of --help."""
    kind = STAGES[stage].config
    own = _described(kind, [name for name in inspect.get_annotations(kind) if name not in STAGES[stage].unread])
    run = _described(RunArguments, list(inspect.get_annotations(RunArguments)))
    groups = {"Options of the run": run, f"Options of stage {stage}": own}
    for title, options in USUAL.items():
        known = {field.name for field in fields(kind)} - own.keys() - STAGES[stage].unread.keys()
        groups[title] = {name: text for name, text in options.items() if name in known}
    lines = [f"usage: bash recipes/{stage}/RUN/train.sh [--key value ...]", ""]
    lines += textwrap.wrap(
        "Every option may be a key of the recipe's config.yaml; the command line overrides it.", WIDTH
    )
    for title, options in groups.items():
        lines += ["", f"{title}:"] if options else []
        for name, text in options.items():
            lines += textwrap.wrap(f"  --{name:28} {text}", WIDTH, subsequent_indent=" " * 33)
    parent = kind.__mro__[1]
    other = (
        f"Every other option of {parent.__module__.split('.')[0]}.{parent.__name__} can be set too. One that would "
    )
    return "\n".join([*lines, "", *textwrap.wrap(f"{other}have no effect is refused, with the reason.", WIDTH), ""])


def _described(kind: Any, names: list[str]) -> dict[str, str]:
    """The help of a dataclass's fields, with their defaults."""
    found, known = {}, {field.name: field for field in fields(kind)}
    for name in names:
        default = known[name].default
        shown = "" if default in (MISSING, None, False) else f" (default: {default})"
        found[name] = known[name].metadata["help"] + shown
    return found


if __name__ == "__main__":
    (CONFIGS / "help").mkdir(exist_ok=True)
    for stage in ("sft", "redi", "dpo"):  # SimPO is an objective of REDI's script
        (CONFIGS / "help" / f"{stage}.txt").write_text(training_help(stage), encoding="utf-8")
