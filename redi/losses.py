"""The objectives of stage 2: pure functions of log-probabilities, and the table that everything else reads them from.

A loss takes `chosen_logps, rejected_logps` (token log-probabilities summed over the completion, `(B,)`) and
`chosen_lengths, rejected_lengths` (numbers of scored completion tokens |y|, `(B,)`). It returns the loss of every
pair, `(B,)`. The trainer takes the mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F


def redi_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
    alpha: float,
    chosen_weight: float = 1.0,
) -> torch.Tensor:
    """The REDI objective, Eq. (5) of https://huggingface.co/papers/2505.24850, before the mean over pairs.

    No reference model and no KL term. `alpha = 0` is length-normalised SFT on the chosen completions; `alpha = 1` is
    the symmetric objective, Eq. (4).

    Args:
        chosen_logps, rejected_logps: log p(y_w | x) and log p(y_l | x), summed over the completion's tokens. With
            bounded negatives, `rejected_logps` are sums of `unlikelihood`. `(B,)`
        chosen_lengths, rejected_lengths: |y_w| and |y_l|, including the end-of-turn and eos tokens. `(B,)`
        alpha: weight of the negative term, in [0, 1].
        chosen_weight: weight of the positive term, 1 in Eq. (5). With `alpha = 1`, 0 and 0.1 are the weights of NSR
            and W-REINFORCE, https://huggingface.co/papers/2506.01347.
    """
    # Eq. (5): -log p(y_w|x) / |y_w| + alpha * log p(y_l|x) / |y_l|
    return -chosen_weight * (chosen_logps / chosen_lengths) + alpha * (rejected_logps / rejected_lengths)


def unlikelihood(logps: torch.Tensor) -> torch.Tensor:
    """-log(1 - p) of tokens from their log p, https://huggingface.co/papers/1908.04319. Any shape.

    Minimised, it also lowers p. But it ends at 0, where log p has no floor, and its gradient, p / (1 - p) times that
    of log p, vanishes with p. log p is clamped below -1e-38, so the result is at most 87 in float32.
    """
    logps = logps.clamp(max=-torch.finfo(logps.dtype).tiny)
    half = -math.log(2)  # each form is exact on its side of p = 1/2
    log1m = torch.where(
        logps > half,
        torch.log(-torch.expm1(logps.clamp(min=half))),
        torch.log1p(-torch.exp(logps.clamp(max=half))),
    )
    return -log1m  # -log(1 - p)


def simpo_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
    beta: float,
    gamma: float,
) -> torch.Tensor:
    """The SimPO baseline, Eq. (3) of https://huggingface.co/papers/2505.24850, before the mean over pairs.

    `beta` scales the length-normalised rewards; `gamma` is the target margin. The papers tune gamma / beta.
    """
    # Eq. (3): -log sigmoid( beta * log p(y_w|x) / |y_w| - beta * log p(y_l|x) / |y_l| - gamma )
    margins = beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths)
    return -F.logsigmoid(margins - gamma)


# --- table -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """An option of an objective, which becomes a field of `REDIConfig` and of the command line."""

    default: Any  # of the option's type
    help: str
    range: tuple[float, float] | None = None  # with both ends


@dataclass(frozen=True)
class Objective:
    """What stage 2 minimises. Options, trainer, card and preflight are made from it; nothing else names an objective.

    Attributes:
        title: its name in model cards.
        about: what a run of it is, for the model card.
        paper: title and arXiv id.
        options: by name. The functions below get a `REDIConfig`, in which these are set.
        loss: returns the loss of pairs, a function like `redi_loss` without its options.
        is_sum: whether that is linear in the sums of log-probabilities, with a negative or no factor for chosen and a
            positive or none for rejected. Then the engine trains on traces. Other objectives train on padded pairs.
        negative_term: returns a function of token log-probabilities, of any shape, that is summed over the tokens of
            rejected completions in place of those; or None. Raises a `ValueError` if options contradict each other.
    """

    title: str
    about: str
    paper: tuple[str, str]
    options: dict[str, Option]
    loss: Callable[[Any], Callable[..., torch.Tensor]]
    is_sum: bool = False
    negative_term: Callable[[Any], Callable[[torch.Tensor], torch.Tensor] | None] = lambda options: None

    def weights(self, options: Any) -> tuple[float, float] | None:
        """The weights of both sides, (chosen_weight, alpha) in Eq. (5), read off the loss; None if it is no sum."""
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        loss = self.loss(options)
        return (-loss(one, zero, one, one).item(), loss(zero, one, one, one).item()) if self.is_sum else None

    def describe(self, options: Any) -> str:
        """A sentence for the model card."""
        title, number = self.paper
        values = ", ".join(f"`{name}` {getattr(options, name)}" for name in self.options)
        return f"{self.about} ([{title}](https://huggingface.co/papers/{number})), with {values}."


def _bounded(options: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    if options.bounded_negatives and options.alpha == 0:
        raise ValueError("bounded_negatives=True has no effect with alpha=0, which leaves negatives out. Remove it.")
    return unlikelihood if options.bounded_negatives else None


OBJECTIVES = {  # by the value of the option `objective`
    "redi": Objective(
        title="REDI",
        about="Reinforcement Distillation (REDI) on correct and incorrect reasoning traces",
        paper=(
            "Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
            "2505.24850",
        ),
        options={
            "alpha": Option(0.8, "Weight of the negative term in Eq. (5).", (0, 1)),
            "chosen_weight": Option(
                1.0,
                "Weight of the positive term in Eq. (5): 1 for REDI; with alpha 1, 0 for NSR and 0.1 for W-REINFORCE "
                "(https://huggingface.co/papers/2506.01347). At 0, positives are still computed, for logps/chosen and "
                "the collapse guard.",
                (0, 1),
            ),
            "bounded_negatives": Option(
                False,
                "Sum -log(1 - p) over the tokens of negatives in place of log p, which has no floor (unlikelihood, "
                "https://huggingface.co/papers/1908.04319).",
            ),
        },
        loss=lambda options: partial(redi_loss, alpha=options.alpha, chosen_weight=options.chosen_weight),
        is_sum=True,
        negative_term=_bounded,
    ),
    "simpo": Objective(
        title="SimPO",
        about="The SimPO baseline of REDI",
        paper=("SimPO: Simple Preference Optimization with a Reference-Free Reward", "2405.14734"),
        options={
            "simpo_beta": Option(2.0, "SimPO's beta, Eq. (3)."),
            "simpo_gamma": Option(1.0, "SimPO's gamma, Eq. (3)."),
        },
        loss=lambda options: partial(simpo_loss, beta=options.simpo_beta, gamma=options.simpo_gamma),
    ),
}
