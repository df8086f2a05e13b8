"""Stage 2: REDI (or SimPO, with `objective: simpo`) on preference pairs.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_redi.py --config RECIPE.yaml [--key value ...]
"""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from redi.config import UNREAD_OPTIONS, REDIConfig
from redi.runs.errors import entry_point
from redi.runs.recipe_options import parse_options, without_gpu
from redi.text.training_rows import prepare_problems
from redi.trainer import REDITrainer
from redi.training import RunArguments, run_training


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(
        argv, [RunArguments, REDIConfig], unread=UNREAD_OPTIONS, assumed=without_gpu(argv)
    )

    def prepare(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        # Before the trainer sets the tokenizer's pad token, since the cache knows a tokenizer by all of its state.
        return prepare_problems(rows, tokenizer, args.max_length, args.dataset_num_proc, name=run.dataset_name)

    run_training(run, args, given, prepare=prepare, trainer_class=REDITrainer)


if __name__ == "__main__":
    main()
