#!/usr/bin/env bash
# Trains a recipe on the GPUs of this machine, or on the CPU if there are none. Every train.sh calls it:
#   launch.sh STAGE/RUN [--key value ...]
# The folder may be anywhere.
# Relative paths, in the recipe and on the command line, are relative to the repository.
#
# Environment variables (redi/runs/launch.py reads them):
#   ACCELERATE_CONFIG=FILE  instead of the recipe's accelerate_config
#   NUM_PROCESSES=N         processes on this machine; default: one per GPU
#   NUM_MACHINES=N          run the same command on N machines, each with its own MACHINE_RANK=0..N-1 and all with the
#                           MAIN_PROCESS_IP and MAIN_PROCESS_PORT of machine 0; scripts/slurm/train_multinode.sbatch sets them
#
# Exit codes: 2 bad options or data; 3 stopped by the collapse guard; 143 stopped by SIGTERM and 130 by Ctrl-C, with a
# checkpoint saved. The same command resumes. A second Ctrl-C ends the run at once.
set -euo pipefail

main() { # one function, read completely before it runs: this file may change during a training
    local recipe stage train code=0
    recipe=$(cd "$1" && pwd)
    shift
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    stage=$(basename "$(dirname "$recipe")")
    stage=${stage/simpo/redi} # SimPO is an objective of REDI's trainer
    if [ ! -f "scripts/train_$stage.py" ]; then
        echo "error: $recipe is not a folder STAGE/RUN with STAGE one of sft, redi, simpo, dpo" >&2 && exit 2
    fi
    if [[ " $* " =~ " --help "|" -h " ]]; then cat "configs/help/$stage.txt" && exit; fi
    if [ -d .venv ]; then
        export PATH="$PWD/.venv/bin:$PATH"
    elif ! command -v python >/dev/null; then
        echo "error: there is no .venv here: run \`bash scripts/setup.sh\` first" >&2 && exit 2
    fi
    source recipes/watch.sh
    # Kubernetes, MPI and SLURM set these for one process per GPU, which `accelerate launch` starts here.
    unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
    unset "${!PMI@}" "${!MPI_@}" "${!OMPI_@}" "${!MV2_@}"
    train=("scripts/train_$stage.py" --config "$recipe/config.yaml" "$@")
    files=$(mktemp -d)
    trap 'rm -rf "$files"' EXIT
    export REDI_EXIT_CODE_FILE=$files/code
    if [[ " $* " != *" --tokenize"[-_]only* ]]; then export REDI_LAUNCH_FILE=$files/launch; fi

    # One process checks the job and tokenises, so that the others need not wait for it. It writes the options of
    # `accelerate launch` to REDI_LAUNCH_FILE, unless something is wrong or the run is finished.
    watch group python "${train[@]}" --tokenize_only true
    if [ ! -f "$files/launch" ]; then exit; fi
    mapfile -t options <"$files/launch"

    # Signals must reach the training processes, which save a checkpoint, but not `accelerate launch`: it would kill
    # them after 30 s.
    watch children launch "${options[@]}" "${train[@]}" || code=$?
    # accelerate ends with 0 or 1 whatever its processes end with; they write their code to a file.
    if [ "$code" -le 1 ] && [ -s "$REDI_EXIT_CODE_FILE" ]; then code=$(<"$REDI_EXIT_CODE_FILE"); fi
    exit "$code"
}

launch() {
    trap '' TERM HUP INT
    export PET_SIGNALS_TO_HANDLE=SIGQUIT
    exec accelerate launch --quiet "$@"
}

main "$@"
