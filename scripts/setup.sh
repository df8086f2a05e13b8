#!/usr/bin/env bash
# Makes .venv with everything that the project needs. Does nothing if that is already done for this pyproject.toml.
# PYTHON=/path/to/python3.11 chooses the interpreter (3.11 or newer).
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python >= 3.11 with venv and pip found; install python3.11 and python3.11-venv, or set PYTHON" >&2
    exit 2
}

# The stamp names what was installed, and where: a changed pyproject.toml or a moved checkout installs again. It is
# written last, so an interrupted set-up is not mistaken for a finished one.
wanted="$(cat pyproject.toml scripts/setup.sh | cksum) $PWD"
stamp=.venv/redi-setup-done
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

python=$(find_python)
echo "setup: creating .venv with $("$python" --version) and installing the packages of pyproject.toml; it takes minutes"
start=$SECONDS
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
# DS_BUILD_OPS=0: DeepSpeed compiles its CUDA operators when a run first needs them, not now. Of the output of pip, only
# the large downloads are shown.
DS_BUILD_OPS=0 .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[dev]" |
    sed -un '/[MG]B)/p; s/^Installing collected packages.*/  Installing/p'
echo "$wanted" >"$stamp"
echo "setup: done in $((SECONDS - start)) s"
