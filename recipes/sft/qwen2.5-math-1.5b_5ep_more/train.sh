#!/usr/bin/env bash
# Trains one run for each learning rate. VALUES=1e-5 trains only that one, as a separate job.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../../watch.sh"
for learning_rate in ${VALUES:-1e-6 1e-5 5e-5}; do
    watch leader bash "$here/../../launch.sh" "$here" --learning_rate "$learning_rate" \
        --output_dir "runs/sft/qwen2.5-math-1.5b_5ep_more/lr$learning_rate" "$@"
done
