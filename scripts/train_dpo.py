"""The DPO baseline, Eq. (2): the pairs and tokens of REDI, with the start model as reference.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_dpo.py --config RECIPE.yaml [--key value ...]
"""

from functools import partial

from redi.runs.errors import entry_point
from redi.training import train

main = entry_point(partial(train, "dpo"))

if __name__ == "__main__":
    main()
