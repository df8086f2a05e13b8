#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
exec bash "$here/../../evaluate.sh" "$here" --benchmark runs/quickstart/task/digits.jsonl --backend transformers \
    --n 4 --temperature 0.6 --top-p 0.95 --max-tokens 80 --prompt bare --seed 0 "$@"
