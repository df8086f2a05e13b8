"""The stages of training: the options each one reads, the rows it trains on, and what trains on them."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from redi import config, dpo, sft
from redi.text.training_rows import prepare_rows
from redi.trainer import REDITrainer


@dataclass(frozen=True)
class Stage:
    """A stage of training."""

    config: type[TrainingArguments]  # of the trainer's options
    unread: dict[str, str]  # options without effect in this stage, and why: setting one is an error
    kinds: tuple[str, ...]  # of rows to train on, see `redi.text.training_rows.KINDS`
    trainer: Callable[..., Trainer]  # trainer(model=PATH, args=, train_dataset=, processing_class=, peft_config=)
    accelerate_config: str = "zero2"  # the default one, by its name in `configs/accelerate`
    has_reference: bool = False  # whether a reference model is run as well

    def prepare(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: TrainingArguments, name: str
    ) -> tuple[Dataset, dict[str, int]]:
        """The tokenised rows that the trainer expects, and their counts; see `prepare_rows`.

        To be called before the trainer changes the tokenizer: the datasets cache identifies one by all of its state.
        """
        splits = getattr(args, "packing", False) and args.packing_strategy != "bfd"  # it cuts nothing off
        limit = None if splits else args.max_length
        return prepare_rows(rows, self.kinds, tokenizer, limit, args.dataset_num_proc, name)


# By the name of the folder in recipes/ that holds the stage's runs. DPO's accelerate configuration is the paper's.
STAGES = {
    "sft": Stage(config.PackedSFTConfig, sft.UNREAD_OPTIONS, ("positives",), sft.PackedSFTTrainer),
    "redi": Stage(config.REDIConfig, config.UNREAD_OPTIONS, ("pairs", "traces"), REDITrainer),
    "simpo": Stage(config.REDIConfig, config.UNREAD_OPTIONS, ("pairs",), REDITrainer),
    "dpo": Stage(
        config.PreparedDPOConfig, dpo.UNREAD_OPTIONS, ("pairs",), dpo.PreparedDPOTrainer, "zero3", has_reference=True
    ),
}
