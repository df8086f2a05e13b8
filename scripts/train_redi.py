"""Stage 2: REDI (or SimPO, with `objective: simpo`) on preference pairs.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_redi.py --config RECIPE.yaml [--key value ...]
"""

from redi.config import UNREAD_OPTIONS, REDIConfig
from redi.options import parse_options
from redi.runs import entry_point
from redi.trainer import REDITrainer
from redi.training import RunArguments, run_training


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(argv, [RunArguments, REDIConfig], unread=UNREAD_OPTIONS)
    run_training(run, args, given, prepare=lambda rows, tokenizer: rows, trainer_class=REDITrainer)


if __name__ == "__main__":
    main()
