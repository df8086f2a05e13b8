#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
exec bash "$here/../../launch.sh" "$here" "$@"
