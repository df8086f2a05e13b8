"""Stage 1: TRL's `SFTTrainer` on positives, with the loss on the completion alone."""

from typing import Any

from accelerate.utils import is_peft_model
from trl import SFTConfig, SFTTrainer

from redi.engine.attention import enable_packing

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


class PackedSFTTrainer(SFTTrainer):
    """[`~trl.SFTTrainer`] on rows from `redi.text.training_rows`; loss, packing and metrics are TRL's own.

    The only change: `padding_free` and `packing` need no flash-attn package, see `redi.engine.attention`.

    Raises:
        ValueError: `padding_free` or `packing` is set, and the model's attention cannot keep packed rows apart.
    """

    def __init__(self, model: Any, args: SFTConfig, **kwargs: Any):
        if args.padding_free and not args.packing:
            args.max_length = None  # rows have been cut; SFTTrainer refuses a limit that it cannot apply
        super().__init__(model=model, args=args, **kwargs)
        if self.padding_free:
            reason = enable_packing(self.model.get_base_model() if is_peft_model(self.model) else self.model)
            if reason is not None:
                raise ValueError(f"neither padding_free nor packing is possible: {reason}. Remove the option")
