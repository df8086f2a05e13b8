"""The DPO baseline, Eq. (2): the pairs and tokens of REDI, with the start model as reference.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_dpo.py --config RECIPE.yaml [--key value ...]
"""

from redi.runs.errors import entry_point
from redi.training import train


@entry_point
def main(argv: list[str]) -> None:
    train("dpo", argv)


if __name__ == "__main__":
    main()
