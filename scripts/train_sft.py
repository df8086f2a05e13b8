"""Stage 1: supervised fine-tuning on positives. The assistant's turn, its end-of-turn tokens and one eos are trained.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_sft.py --config RECIPE.yaml [--key value ...]
"""

from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from redi.engine.attention import enable_packing
from redi.runs.errors import UsageError, entry_point
from redi.runs.recipe_options import parse_options, without_gpu
from redi.text.encoding import encode, split_conversation
from redi.training import RunArguments, run_training

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


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: SFTConfig) -> Dataset:
    """Conversations in `messages` to `input_ids` and `labels`, which are -100 outside the completion."""
    if "messages" not in rows.column_names:
        raise UsageError(
            f"the dataset has no column 'messages'; it has {rows.column_names}. SFT trains on positives: make "
            "them with data_preprocess/build_positives.py"
        )

    limit = args.max_length if args.padding_free and not args.packing else None  # SFTTrainer does not cut there

    def tokenize_row(row: dict) -> dict:
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


def make_trainer(args: SFTConfig, **kwargs: Any) -> SFTTrainer:
    """An `SFTTrainer` whose `padding_free` and `packing` need no flash-attn package: see `redi.engine.attention`.

    Raises:
        ValueError: the model's attention cannot be told where the conversations of a row begin.
    """
    if args.padding_free and not args.packing:
        args.max_length = None  # `tokenize` has cut; SFTTrainer refuses what it would not do itself
    trainer = SFTTrainer(args=args, **kwargs)
    if trainer.padding_free:
        model = trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model
        reason = enable_packing(model)
        if reason is not None:
            raise ValueError(f"neither padding_free nor packing is possible: {reason}. Remove the option")
    return trainer


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(
        argv, [RunArguments, SFTConfig], unread=UNREAD_OPTIONS, assumed=without_gpu(argv)
    )
    run_training(run, args, given, prepare=lambda rows, tok: tokenize(rows, tok, args), trainer_class=make_trainer)


if __name__ == "__main__":
    main()
