"""Stage 1: TRL's `SFTTrainer` on positives, with the loss on the completion alone, trained by the engine."""

from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from redi.runs.model_card import describe_loss
from redi.text.training_rows import prepare_rows
from redi.trace_trainer import TraceTrainer

logger = get_logger(__name__)

_TOKENIZED_HERE = "rows are tokenised by redi.text.training_rows, with the loss on the completion alone"
UNREAD_OPTIONS = {
    "completion_only_loss": _TOKENIZED_HERE,
    "assistant_only_loss": _TOKENIZED_HERE,
    "dataset_text_field": _TOKENIZED_HERE,
    "dataset_kwargs": _TOKENIZED_HERE,
    "chat_template_path": "the template comes with the model's tokenizer",
    "eos_token": "the eos token comes with the model's tokenizer",
    "truncation_mode": "traces are cut at the end",
    "pad_token": "the pad token comes with the model's tokenizer",
}


class PackedSFTTrainer(TraceTrainer, SFTTrainer):
    """[`~trl.SFTTrainer`] on rows from `redi.text.training_rows`.

    The objective is TRL's: the mean over all completion tokens of the global batch. By default the engine computes it,
    as in `REDITrainer`; see `redi.trace_trainer` and `redi.config.PackedSFTConfig`. With `packing`,
    `padding_free=False` or a plain [`~trl.SFTConfig`], TRL does. Neither needs flash-attn (`redi.engine.attention`).
    If the model does not keep packed rows apart (`redi.engine.agreement`), the engine pads, and `packing` is refused.

    Logged metrics are TRL's without `entropy`, over the global batch: `loss`, `mean_token_accuracy`, `num_tokens`; and
    the first two as `eval_*` over `eval_dataset`.
    """

    def __init__(self, model: Any, args: SFTConfig, **kwargs: Any):
        args = self._own_steps(args)
        self.about = describe_loss(
            "Supervised fine-tuning (SFT) on correct reasoning traces",
            "the first stage of REDI",
            args,
            ("loss_type", "label_smoothing_factor", "neftune_noise_alpha"),
        )
        super().__init__(model=model, args=args, **kwargs)
        if self.trains_on_traces:
            if self.aux_loss_enabled:  # by a mixture-of-experts model's own coefficient
                logger.warning("the model's load-balancing loss is left out; padding_free: false adds it")
                self.model.config.get_text_config().output_router_logits = self.aux_loss_enabled = False
            self.has_own_head = True
            self._plan_steps((1.0, 0.0))
        elif self.padding_free:
            self.layouts = ("packed",)

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: PreTrainedTokenizerBase, args: SFTConfig, *others: Any
    ) -> Dataset:
        if not self.trains_on_traces:
            return super()._prepare_dataset(dataset, processing_class, args, *others)
        name = f"{others[-1]} dataset"
        return prepare_rows(dataset, ("positives",), processing_class, args.max_length, args.dataset_num_proc, name)[0]

    def _use_layout(self, layout: str) -> None:
        super()._use_layout(layout)
        if not self.trains_on_traces:
            self.padding_free = self.data_collator.padding_free = layout == "packed"

    def _record(self, sums: torch.Tensor, rows: list[int]) -> None:
        """Records TRL's metrics; see `TraceTrainer`."""
        _, accuracy, num_scored, _ = sums[:, 1].unbind(dim=1)  # (N,) each
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["mean_token_accuracy"].append(((accuracy * num_scored).sum() / num_scored.sum().clamp(min=1)).item())
