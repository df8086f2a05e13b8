"""The DPO baseline, Eq. (2): TRL's `DPOTrainer` on exactly the tokens that REDI trains on."""

from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from redi.checks import CheckedTrainer
from redi.runs.model_card import describe_loss
from redi.text.training_rows import prepare_rows

UNREAD_OPTIONS = {
    "padding_free": "TRL's DPOTrainer pads",
    "truncation_mode": "traces are cut at the end",
    "pad_token": "the pad token comes with the model's tokenizer",
}
_LOSS_OPTIONS = ("loss_type", "loss_weights", "label_smoothing", "label_smoothing_factor", "ld_alpha", "use_weighting")
_LOSS_OPTIONS += ("f_divergence_type", "f_alpha_divergence_coef", "discopop_tau", "neftune_noise_alpha")


class PreparedDPOTrainer(CheckedTrainer, DPOTrainer):
    """[`~trl.DPOTrainer`] on pairs from `redi.text.training_rows`; loss, reference and most metrics are TRL's own.

    TRL 1.16 appends no eos token to a conversation, so its DPO would not learn where an answer ends. REDI here, and
    DPO in the authors' code (https://huggingface.co/papers/2505.24850), score one. TRL also cannot tokenise before it
    has loaded the model.

    `logps/{chosen,rejected}` and `completions/mean_length/{chosen,rejected}` are as in `REDITrainer`: mean
    log-probabilities per token, where TRL logs sums. `rewards/*` are TRL's, with beta and the reference.
    """

    def __init__(self, model: Any, args: DPOConfig, **kwargs: Any):
        self.about = describe_loss("Direct preference optimization (DPO)", "a baseline of REDI", args, _LOSS_OPTIONS)
        super().__init__(model=model, args=args, **kwargs)

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: PreTrainedTokenizerBase, args: DPOConfig, dataset_name: str
    ) -> Dataset:
        """Tokenises pairs; returns those that have been tokenised already as they are."""
        name = f"{dataset_name} dataset"
        return prepare_rows(dataset, ("pairs",), processing_class, args.max_length, args.dataset_num_proc, name)[0]

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        outputs = []

        def policy(**kwargs: Any) -> Any:
            outputs.append(model(**kwargs))
            return outputs[-1]

        loss = super()._compute_loss(policy, inputs, return_outputs)
        metrics = self._metrics["train" if self.model.training else "eval"]
        lengths = inputs["completion_mask"][:, 1:].sum(dim=1)  # (2B,): chosen, then rejected
        logps = outputs[0].log_probs.detach()[:, 1 - inputs["input_ids"].size(1) :].sum(dim=1) / lengths
        for side, mean, length in zip(("chosen", "rejected"), logps.chunk(2), lengths.chunk(2), strict=True):
            metrics[f"logps/{side}"][-1] = self.accelerator.gather(mean).mean().item()
            metrics[f"completions/mean_length/{side}"].append(self.accelerator.gather(length).float().mean().item())
        return loss
