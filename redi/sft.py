"""Stage 1: TRL's `SFTTrainer` on positives, with the loss on the completion alone."""

from typing import Any

from trl import SFTConfig, SFTTrainer

from redi.checks import CheckedTrainer

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


class PackedSFTTrainer(CheckedTrainer, SFTTrainer):
    """[`~trl.SFTTrainer`] on rows from `redi.text.training_rows`; loss, packing and metrics are TRL's own.

    The only change: `padding_free` and `packing` need no flash-attn package, see `redi.engine.attention`. If the model
    does not keep rows apart (`redi.engine.agreement`), `padding_free` pads after all, and `packing` is refused.
    """

    def __init__(self, model: Any, args: SFTConfig, **kwargs: Any):
        if args.padding_free and not args.packing:
            args.max_length = None  # rows have been cut; SFTTrainer refuses a limit that it cannot apply
        super().__init__(model=model, args=args, **kwargs)
        if self.padding_free:
            self.layouts = ("packed",) if args.packing else ("packed", "padded")

    def _use_layout(self, layout: str) -> None:
        self.padding_free = self.data_collator.padding_free = layout == "packed"
