#!/usr/bin/env bash
# What the paper chose by: MATH-500, 4 samples. Evaluates the points that are trained.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
for manifest in runs/sft/qwen2.5-math-1.5b_5ep_more/*/manifest.json; do
    bash scripts/evaluate.sh "$(dirname "$manifest")" --protocol paper_intermediate "$@"
done
