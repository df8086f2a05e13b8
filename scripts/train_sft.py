"""Stage 1: supervised fine-tuning on positives.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_sft.py --config RECIPE.yaml [--key value ...]
"""

from functools import partial

from redi.runs.errors import entry_point
from redi.training import train

main = entry_point(partial(train, "sft"))

if __name__ == "__main__":
    main()
