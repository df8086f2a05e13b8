#!/usr/bin/env bash
# Makes .venv with everything that the project needs, in the versions of constraints.txt. Does nothing if that is done.
# PYTHON=/path/to/python3.11 chooses the interpreter (3.11 or newer). REDI_UPGRADE=1 takes the newest allowed versions.
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh

fill() {
    # DS_BUILD_OPS=0: DeepSpeed compiles its CUDA operators when a run first needs them, not now.
    DS_BUILD_OPS=0 install .venv constraints.txt -e ".[dev]"
}

candidates=(python3.11 python3.12 python3.13 python3)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
make_venv .venv "$(cat pyproject.toml constraints.txt scripts/setup.sh scripts/venv.sh | cksum)" \
    fill "${candidates[@]}"
