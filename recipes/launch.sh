#!/usr/bin/env bash
# The launcher that every recipe's train.sh shares:
#   launch.sh SCRIPT RECIPE_FOLDER ACCELERATE_CONFIG [--key value ...]
# Relative paths, in the recipe and on the command line, are relative to the repository. Without a GPU the CPU
# configuration is used, with one GPU single_gpu; ACCELERATE_CONFIG=FILE overrides the choice.
set -euo pipefail
script=scripts/$1.py recipe=$(cd "$2" && pwd) multi_gpu=configs/accelerate/$3.yaml
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi

# A mistake in the options ends here, with one line and exit code 2, before any process is launched.
python "$script" --config "$recipe/config.yaml" "$@" --check_only true

num_gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
case $num_gpus in
    0) processes=() chosen=configs/accelerate/cpu.yaml ;;
    1) processes=() chosen=configs/accelerate/single_gpu.yaml ;;
    *) processes=(--num_processes "$num_gpus") chosen=$multi_gpu ;;
esac
exec accelerate launch --config_file "${ACCELERATE_CONFIG:-$chosen}" "${processes[@]}" \
    "$script" --config "$recipe/config.yaml" "$@"
