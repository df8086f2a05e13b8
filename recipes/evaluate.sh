#!/usr/bin/env bash
# The evaluation that every recipe's eval.sh shares, of the model in the recipe's output_dir:
#   evaluate.sh RECIPE_FOLDER [arguments of scripts/evaluate.sh after its first ...]
set -euo pipefail
recipe=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=$(sed -n 's/^output_dir: *\([^ #]*\).*/\1/p' "$recipe/config.yaml")
exec bash scripts/evaluate.sh "$model" "$@"
