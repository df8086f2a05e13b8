"""[script] Adds two objectives to the table of `redi.losses`, then checks and trains the recipes that it is given.

A fork adds them at the end of redi/losses.py. Here they are added before anything else of redi is imported.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from redi.losses import OBJECTIVES, Objective, Option, redi_loss


def hinge_loss(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, margin):
    """max(0, margin - difference of LogPS): a function of a pair, not a sum over its traces."""
    return torch.relu(margin - chosen_logps / chosen_lengths + rejected_logps / rejected_lengths)


OBJECTIVES["hinge"] = Objective(
    title="Hinge",
    about="A hinge",
    paper=("The hinge's paper", "1234.00001"),
    options={"hinge_margin": Option(2.0, "Margin of the hinge.", (0, 10))},
    loss=lambda options: partial(hinge_loss, margin=options.hinge_margin),
)
# Eq. (5) in which no token of a negative falls below a floor: a sum over tokens, so the engine trains it.
OBJECTIVES["floor"] = Objective(
    title="Floor",
    about="A floor",
    paper=("The floor's paper", "1234.00002"),
    options={"alpha": Option(1.0, "Weight of the negatives."), "floor": Option(-5.0, "Least log p.")},
    loss=lambda options: partial(redi_loss, alpha=options.alpha),
    is_sum=True,
    negative_term=lambda options: lambda logps: logps.clamp(min=options.floor),
)

if __name__ == "__main__":
    from helpers.commands import CPU
    from redi.preflight.check import preflight
    from redi.preflight.recipe import Machine
    from redi.training import train

    for recipe in sys.argv[1:]:
        preflight(Path(recipe), [], Machine(gpus=1, memory=80.0))
        train("redi", ["--config", recipe, *CPU])
