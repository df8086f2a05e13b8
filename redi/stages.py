"""The stages of training: the options each one reads, how it prepares its rows, and what trains on them."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import DPOConfig, SFTConfig

from redi import config, dpo, sft
from redi.text.training_rows import prepare_problems
from redi.trainer import REDITrainer


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        config: dataclass of the trainer's options.
        unread: options of `config` that have no effect in this stage, and why; setting one is an error.
        kinds: kinds of rows to train on, and the columns of each.
        prepare: called as `prepare(rows, tokenizer, args, name)`; returns the tokenised rows that the trainer expects.
            `name` is that of the dataset, for messages. Works by `Dataset.map`, so the result is cached.
        trainer: called as `trainer(model=PATH, args=..., train_dataset=..., processing_class=..., peft_config=...)`.
        accelerate_config: the default one, by its name in `configs/accelerate`.
        has_reference: whether a reference model is run as well.
    """

    config: type[TrainingArguments]
    unread: dict[str, str]
    kinds: dict[str, set[str]]
    prepare: Callable[[Dataset, PreTrainedTokenizerBase, TrainingArguments, str], Dataset]
    trainer: Callable[..., Trainer]
    accelerate_config: str = "zero2"
    has_reference: bool = False


def _tokenize_problems(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: config.REDIConfig | DPOConfig, name: str
) -> Dataset:
    # Before the trainer sets the tokenizer's pad token: the datasets cache identifies a tokenizer by all of its state.
    return prepare_problems(rows, tokenizer, args.max_length, args.dataset_num_proc, name=name)


PAIRS = {"pairs": {"chosen", "rejected"}}
TRACES = {"traces": {"prompt", "completion", "label"}}

# By the name of the folder in recipes/ that holds the stage's runs.
STAGES = {
    "sft": Stage(
        SFTConfig, sft.UNREAD_OPTIONS, {"positives": {"messages"}}, sft.tokenize_positives, sft.PackedSFTTrainer
    ),
    "redi": Stage(config.REDIConfig, config.UNREAD_OPTIONS, PAIRS | TRACES, _tokenize_problems, REDITrainer),
    "simpo": Stage(config.REDIConfig, config.UNREAD_OPTIONS, PAIRS, _tokenize_problems, REDITrainer),
    "dpo": Stage(
        DPOConfig,
        dpo.UNREAD_OPTIONS,
        PAIRS,
        _tokenize_problems,
        dpo.PreparedDPOTrainer,
        accelerate_config="zero3",  # the paper's
        has_reference=True,
    ),
}
