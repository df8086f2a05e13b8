#!/usr/bin/env bash
# What the paper chose by: MATH-500, 4 samples. Evaluates the points that are trained.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
for manifest in runs/redi/qwen2.5-math-1.5b_3ep_sweep/*/manifest.json; do
    bash scripts/evaluate.sh "$(dirname "$manifest")" --protocol paper_intermediate "$@"
done
