#!/usr/bin/env bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../../.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
exec "$(command -v python || command -v python3)" scripts/evaluate.py run "$here" --protocol quickstart --backend transformers "$@"
