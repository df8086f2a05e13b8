#!/usr/bin/env bash
# The evaluation that every recipe's eval.sh shares, of what its train.sh has written:
#   evaluate.sh RECIPE_FOLDER [--output_dir DIR] [arguments of scripts/evaluate.sh after its first ...]
# --output_dir is that of train.sh, where it was not the recipe's. Of a sweep, every run in it that is finished.
set -euo pipefail
recipe=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=$(sed -n 's/^output_dir: *\([^ #]*\).*/\1/p' "$recipe/config.yaml")
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --output_dir) model=${2:?--output_dir needs a folder} && shift ;;
        --output_dir=*) model=${1#*=} ;;
        *) options+=("$1") ;;
    esac
    shift
done

shopt -s nullglob
points=("$model"/*/manifest.json)
if [ -f "$model/manifest.json" ] || [ ${#points[@]} -eq 0 ]; then
    exec bash scripts/evaluate.sh "$model" "${options[@]}"
fi
for manifest in "${points[@]}"; do bash scripts/evaluate.sh "$(dirname "$manifest")" "${options[@]}"; done
