#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
exec bash "$here/../../evaluate.sh" "$here" --protocol paper_final "$@"
