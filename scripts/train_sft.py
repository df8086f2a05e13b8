"""Stage 1: supervised fine-tuning on positives.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_sft.py --config RECIPE.yaml [--key value ...]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.preflight.launch import training_command

main = training_command("sft")

if __name__ == "__main__":
    main()
