"""The DPO baseline, Eq. (2): the pairs and tokens of REDI, with the start model as reference.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_dpo.py --config RECIPE.yaml [--key value ...]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.preflight.launch import training_command

main = training_command("dpo")

if __name__ == "__main__":
    main()
