#!/usr/bin/env bash
# Sets up .venv if needed and runs the linter and the tests. --all first makes .venv-vllm too, so that the tests of vLLM
# run (REDI_VLLM_PYTHON names another that is there). Other arguments go to pytest: bash scripts/test.sh -m "not slow"
# One process a core, at most 8; `-n 0` runs the tests one after the other, with their output as it comes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
if [ "${1:-}" = --all ]; then
    shift
    if [ -z "${REDI_VLLM_PYTHON:-}" ]; then
        bash scripts/setup_vllm.sh
        export REDI_VLLM_PYTHON="$PWD/.venv-vllm/bin/python"
    fi
fi
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
cores=$(nproc)
exec .venv/bin/python -m pytest -n "$((cores < 8 ? cores : 8))" --maxschedchunk 1 "$@"
