#!/usr/bin/env bash
# What the paper chose by: MATH-500, 4 samples. Evaluates the points that are trained.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
exec bash "$here/../../evaluate.sh" "$here" --protocol paper_intermediate "$@"
