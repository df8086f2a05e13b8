"""Stage 2: REDI (or SimPO, with `objective: simpo`) on pairs of a correct and an incorrect trace.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_redi.py --config RECIPE.yaml [--key value ...]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.preflight.launch import training_command

main = training_command("redi")

if __name__ == "__main__":
    main()
