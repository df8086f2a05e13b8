#!/usr/bin/env bash
# Sets up .venv if needed and runs the whole method on the CPU: raw traces -> positives and pairs -> SFT -> REDI ->
# evaluation -> table and pictures in runs/quickstart/. A rerun skips what is finished.
#   --seed N      another seed (default 0)
#   --full        also the rows for alpha, the collapse, DPO and SimPO
#   --output DIR  another folder
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/quickstart.py "$@"
