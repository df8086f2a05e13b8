#!/usr/bin/env bash
# The evaluation that every recipe's eval.sh shares:
#   evaluate.sh RECIPE_FOLDER [options of scripts/evaluate.py generate ...]
# Evaluates the model in the recipe's output_dir; writes evaluation/<its name> and report/<its name> beside it.
set -euo pipefail
recipe=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi

model=$(sed -n 's/^output_dir: *\([^ #]*\).*/\1/p' "$recipe/config.yaml")
generations=$(dirname "$model")/evaluation/$(basename "$model")
python scripts/evaluate.py generate --model "$model" --output "$generations" "$@"
python scripts/evaluate.py grade --input "$generations"
python scripts/evaluate.py report --input "$generations" --output "$(dirname "$model")/report/$(basename "$model")"
