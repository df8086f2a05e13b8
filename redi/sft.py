"""Stage 1: tokenises positives, with the loss on the completion alone, and trains on them with TRL's `SFTTrainer`."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from redi.checks import CheckedTrainer
from redi.runs.errors import UsageError
from redi.text.encoding import encode, split_conversation

_TOKENIZED_HERE = "rows are tokenised by redi.text.encoding, with the loss on the completion alone"
UNREAD_OPTIONS = {
    "completion_only_loss": _TOKENIZED_HERE,
    "assistant_only_loss": _TOKENIZED_HERE,
    "dataset_text_field": _TOKENIZED_HERE,
    "dataset_kwargs": _TOKENIZED_HERE,
    "chat_template_path": "the template comes with the model's tokenizer",
    "eos_token": "the eos token comes with the model's tokenizer",
    "pad_token": "the pad token comes with the model's tokenizer",
}


def tokenize_positives(rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: SFTConfig, name: str) -> Dataset:
    """Turns conversations in `messages` into `input_ids` and `labels`, which are -100 outside the completion.

    The completion is the assistant's turn, its end-of-turn tokens and one eos.

    Args:
        rows: positives.
        tokenizer: with a chat template and an eos token.
        args: of the trainer; conversations longer than `max_length` are counted, and cut where the trainer will not.
        name: of the dataset, for messages.

    Raises:
        UsageError: there is no column `messages`.
        ValueError: a conversation cannot be split into prompt and completion.
    """
    if "messages" not in rows.column_names:
        raise UsageError(
            f"dataset_name={name} has no column 'messages' but {', '.join(rows.column_names)}; SFT trains on "
            "positives: make them with build_positives.py"
        )
    limit = args.max_length if args.padding_free and not args.packing else None  # SFTTrainer does not cut these

    def tokenize_row(row: dict[str, Any]) -> dict[str, Any]:
        prompt_ids, completion_ids = encode(tokenizer, *split_conversation(row["messages"]))
        ids, labels = prompt_ids + completion_ids, [-100] * len(prompt_ids) + completion_ids
        return {"input_ids": ids[:limit], "labels": labels[:limit], "num_tokens": len(ids)}

    with args.main_process_first():
        rows = rows.map(
            tokenize_row, remove_columns=rows.column_names, num_proc=args.dataset_num_proc, desc="Tokenizing"
        )
    num_long = sum(args.max_length is not None and length > args.max_length for length in rows["num_tokens"])
    if num_long and not args.packing and args.process_index == 0:
        print(f"max_length={args.max_length} cuts {num_long} of {len(rows)} conversations at the end", flush=True)
    return rows.remove_columns("num_tokens")


class PackedSFTTrainer(CheckedTrainer, SFTTrainer):
    """[`~trl.SFTTrainer`] on rows from `tokenize_positives`; loss, packing and metrics are TRL's own.

    The only change: `padding_free` and `packing` need no flash-attn package, see `redi.engine.attention`. If the model
    does not keep rows apart (`redi.engine.agreement`), `padding_free` pads after all, and `packing` is refused.
    """

    def __init__(self, model: Any, args: SFTConfig, **kwargs: Any):
        if args.padding_free and not args.packing:
            args.max_length = None  # `tokenize_positives` has cut; SFTTrainer refuses a limit that it cannot apply
        super().__init__(model=model, args=args, **kwargs)
        if self.padding_free:
            self.layouts = ("packed",) if args.packing else ("packed", "padded")

    def _use_layout(self, layout: str) -> None:
        self.padding_free = self.data_collator.padding_free = layout == "packed"
