#!/usr/bin/env bash
# What setup.sh and setup_vllm.sh share. Source this file, then call make_venv. REDI_UPGRADE=1 ignores the constraints:
# pip then takes the newest versions that pyproject.toml allows.

# Variables that would send packages elsewhere, or load modules from elsewhere. PIP_USER=0 also overrides a pip.conf.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONUSERBASE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV
export PIP_USER=0 PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off

is_usable() { # PYTHON: 3.11 or newer, with venv and pip
    command -v "$1" >/dev/null && "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# make_venv FOLDER WANTED FUNCTION PYTHON...
# Makes the virtual environment FOLDER with the first usable PYTHON and fills it by FUNCTION. Does nothing if WANTED, a
# text that names what is to be installed, was installed before. FOLDER.lock makes a second set-up wait, and holds text
# while one is under way: after an interruption, everything starts again from nothing.
make_venv() {
    local folder=$1 wanted="$2 $PWD" fill=$3 name=${0##*/} stamp=$1/redi-setup-done python start=$SECONDS
    shift 3
    exec 9>>"$folder.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "$name: waiting for another set-up of $folder"
        flock 9
    fi
    if [ -z "${REDI_UPGRADE:-}" ] && [ -f "$stamp" ] && [ "$(<"$stamp")" = "$wanted" ]; then return; fi
    for python in "$@" ""; do is_usable "$python" && break; done
    if [ -z "$python" ]; then
        echo "$name: not a Python >= 3.11 with venv and pip: $*; install python3.11 and python3.11-venv, or set PYTHON" >&2
        exit 2
    fi
    echo "$name: installing into $folder with $("$python" --version); this takes minutes"
    if [ -s "$folder.lock" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "under way" >"$folder.lock"
        "$python" -m venv --clear "$folder"
    fi
    echo "under way" >"$folder.lock"
    rm -f "$stamp"
    "$fill"
    echo "$wanted" >"$stamp"
    : >"$folder.lock"
    echo "$name: done in $((SECONDS - start)) s"
}

install() { # FOLDER CONSTRAINTS ARGUMENT...: of pip's output, only the large downloads are shown
    local constraints=(-c "$2")
    if [ -n "${REDI_UPGRADE:-}" ]; then constraints=(--upgrade); fi
    "$1/bin/python" -m pip install "${constraints[@]}" "${@:3}" |
        sed -un '/[MG]B)/p; s/^Installing collected packages.*/  Installing/p'
}
