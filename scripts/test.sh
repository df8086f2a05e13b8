#!/usr/bin/env bash
# Sets up .venv if needed, then runs the linter and the tests.
#   bash scripts/test.sh          the quick tests: at most 10 minutes on two cores
#   bash scripts/test.sh --all    every test: also each recipe, kills, several processes, vLLM and SLURM
# Further arguments go to pytest, for example: bash scripts/test.sh tests/engine -x
# Tests run on all cores, at most 8. Add `-n 0` to run them one by one and see their output as it comes.
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
which=(-m "not slow")
if [ "${1:-}" = --all ]; then
    shift
    which=()
    if [ -z "${REDI_VLLM_PYTHON:-}" ]; then # names another environment that has vLLM
        bash scripts/setup_vllm.sh
        export REDI_VLLM_PYTHON="$PWD/.venv-vllm/bin/python"
    fi
fi
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
cores=$(nproc)
exec .venv/bin/python -m pytest -n "$((cores < 8 ? cores : 8))" --maxschedchunk 1 ${which[@]+"${which[@]}"} "$@"
