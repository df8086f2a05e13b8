#!/usr/bin/env bash
# Trains one run for each ALPHA,RATE of the paper's sweep. VALUES=0.5,2e-6 trains only that one, as a separate job.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../../watch.sh"
for values in ${VALUES:-0.2,1e-6 0.8,1e-6 0.5,1e-6 0.5,2e-6 1.0,1e-6 1.0,2e-7 1.0,1e-7}; do
    IFS=, read -r alpha learning_rate <<<"$values"
    watch leader bash "$here/../../launch.sh" "$here" --alpha "$alpha" --learning_rate "$learning_rate" \
        --output_dir "runs/redi/qwen2.5-math-1.5b_3ep_sweep/alpha${alpha}_lr$learning_rate" "$@"
done
