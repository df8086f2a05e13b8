"""Stage 2: REDI (or SimPO, with `objective: simpo`) on preference pairs.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_redi.py --config RECIPE.yaml [--key value ...]
"""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from redi.config import UNREAD_OPTIONS, REDIConfig
from redi.data.problems import tokenize_problems
from redi.options import parse_options
from redi.runs import entry_point
from redi.trainer import REDITrainer
from redi.training import RunArguments, run_training


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(argv, [RunArguments, REDIConfig], unread=UNREAD_OPTIONS)

    def prepare(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The trainer tokenises by itself, and finds in the cache what was tokenised ahead."""
        if run.tokenize_only:
            return tokenize_problems(rows, tokenizer, args.max_length, args.dataset_num_proc)[0]
        return rows

    run_training(run, args, given, prepare=prepare, trainer_class=REDITrainer)


if __name__ == "__main__":
    main()
