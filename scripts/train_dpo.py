"""The DPO baseline, Eq. (2), on the same pairs and tokens as REDI, with the start model as reference.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_dpo.py --config RECIPE.yaml [--key value ...]
"""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig

from redi.dpo import PreparedDPOTrainer
from redi.runs.errors import entry_point
from redi.runs.recipe_options import parse_options, without_gpu
from redi.text.training_rows import prepare_problems
from redi.training import RunArguments, run_training

UNREAD_OPTIONS = {
    "padding_free": "TRL's DPOTrainer pads",
    "pad_token": "the pad token comes with the model's tokenizer",
}


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(
        argv, [RunArguments, DPOConfig], unread=UNREAD_OPTIONS, assumed=without_gpu(argv)
    )

    def prepare(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        # Before the trainer sets the tokenizer's pad token, since the cache knows a tokenizer by all of its state.
        return prepare_problems(rows, tokenizer, args.max_length, args.dataset_num_proc, name=run.dataset_name)

    run_training(run, args, given, prepare=prepare, trainer_class=PreparedDPOTrainer)


if __name__ == "__main__":
    main()
