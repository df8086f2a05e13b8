#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
exec bash "$here/../../evaluate.sh" "$here" --benchmark math500 aime24 amc23 minerva olympiadbench --backend vllm \
    --n 16 --temperature 0.6 --top-p 0.95 --max-tokens 30720 --prompt paper "$@"
