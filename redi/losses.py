"""The training objectives as pure functions of log-probabilities.

Each takes `chosen_logps, rejected_logps` (token log-probabilities summed over the completion, `(B,)`) and
`chosen_lengths, rejected_lengths` (numbers of scored completion tokens |y|, `(B,)`). Each returns the loss of every
pair, `(B,)`. The trainer takes the mean.
"""

import torch
import torch.nn.functional as F


def redi_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
    alpha: float,
) -> torch.Tensor:
    """The REDI objective, Eq. (5) of https://huggingface.co/papers/2505.24850, before the mean over pairs.

    No reference model and no KL term. `alpha = 0` is length-normalised SFT on the chosen completions; `alpha = 1` is
    the symmetric objective, Eq. (4).

    Args:
        chosen_logps, rejected_logps: log p(y_w | x) and log p(y_l | x), summed over the completion's tokens. `(B,)`
        chosen_lengths, rejected_lengths: |y_w| and |y_l|, including the end-of-turn and eos tokens. `(B,)`
        alpha: weight of the negative term, in [0, 1].
    """
    # Eq. (5): -log p(y_w|x) / |y_w| + alpha * log p(y_l|x) / |y_l|
    return -chosen_logps / chosen_lengths + alpha * (rejected_logps / rejected_lengths)


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
