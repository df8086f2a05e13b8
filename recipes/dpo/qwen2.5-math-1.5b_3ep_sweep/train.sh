#!/usr/bin/env bash
# Trains one run for each BETA,RATE of the paper's sweep. VALUES=0.1,1e-6 trains only that one, as a separate job.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../../watch.sh"
points="0.1,1e-6 0.1,1e-7 0.1,1e-8 0.01,1e-6 0.01,5e-7 0.01,2e-7 0.01,1e-7"
points="$points 0.001,1e-6 0.001,5e-7 0.001,2e-7 0.001,1e-7"
for values in ${VALUES:-$points}; do
    IFS=, read -r beta learning_rate <<<"$values"
    watch leader bash "$here/../../launch.sh" "$here" --beta "$beta" --learning_rate "$learning_rate" \
        --output_dir "runs/dpo/qwen2.5-math-1.5b_3ep_sweep/beta${beta}_lr$learning_rate" "$@"
done
