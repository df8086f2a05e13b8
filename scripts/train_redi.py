"""Stage 2: REDI (or SimPO, with `objective: simpo`) on pairs of a correct and an incorrect trace.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_redi.py --config RECIPE.yaml [--key value ...]
"""

from functools import partial

from redi.runs.errors import entry_point
from redi.training import train

main = entry_point(partial(train, "redi"))

if __name__ == "__main__":
    main()
