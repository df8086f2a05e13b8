"""Stage 1: supervised fine-tuning on positives.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_sft.py --config RECIPE.yaml [--key value ...]
"""

from redi.runs.errors import entry_point
from redi.training import train


@entry_point
def main(argv: list[str]) -> None:
    train("sft", argv)


if __name__ == "__main__":
    main()
