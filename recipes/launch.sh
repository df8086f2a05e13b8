#!/usr/bin/env bash
# The launcher that every recipe's train.sh shares:
#   launch.sh SCRIPT RECIPE_FOLDER ACCELERATE_CONFIG [--key value ...]
# Relative paths, in the recipe and on the command line, are relative to the repository. ACCELERATE_CONFIG is for one
# GPU or more (ddp becomes single_gpu on one); without a GPU it is cpu. From the environment:
#   ACCELERATE_CONFIG=FILE  another configuration     NUM_PROCESSES=N  processes on this machine; the GPUs found
#   NUM_MACHINES=N          the same command on each of N machines, each with its MACHINE_RANK=0..N-1 and all with the
#                           MAIN_PROCESS_IP and MAIN_PROCESS_PORT of machine 0; scripts/slurm/submit.py sets them
# SIGTERM goes on to the training processes: they save a checkpoint, and the exit code is 143. The same command resumes.
# Other exit codes: 2 for a mistake in the options or the data, 3 where the collapse guard stopped the run.
set -euo pipefail

main() { # read as a whole before it runs: this file may change while a training does
    script=scripts/$1.py recipe=$(cd "$2" && pwd) chosen=configs/accelerate/$3.yaml
    shift 3
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi

    for name in MACHINE_RANK MAIN_PROCESS_IP MAIN_PROCESS_PORT; do
        if [ "${NUM_MACHINES:-1}" -gt 1 ] && [ -z "${!name:-}" ]; then
            echo "error: NUM_MACHINES=$NUM_MACHINES needs $name as well; see the top of recipes/launch.sh" >&2
            exit 2
        fi
    done

    # One process checks the options and tokenises, before there are others that would wait for it. A mistake in the
    # options or the rows ends here, with one line and exit code 2; so does a run that is finished.
    said=$(mktemp) REDI_EXIT_CODE_FILE=$(mktemp) # accelerate's own exit code is 1, whatever its processes' is
    export REDI_EXIT_CODE_FILE
    trap 'rm -f "$said" "$REDI_EXIT_CODE_FILE"' EXIT
    first="" code=0
    trap 'kill $first || true; exit 143' TERM
    trap 'kill $first || true; exit 130' INT # which a process in the background does not hear
    python "$script" --config "$recipe/config.yaml" "$@" --tokenize_only true </dev/null >"$said" &
    first=$!
    wait "$first" || code=$?
    stopped=false
    trap 'stopped=true' TERM
    trap - INT
    grep -v '^options are right' "$said" || true
    num_gpus=$(sed -n 's/^options are right; GPUs here: //p' "$said")
    if [ "$code" != 0 ] || [ -z "$num_gpus" ] || [[ " $* " == *" --tokenize_only"* ]]; then exit "$code"; fi

    machines=${NUM_MACHINES:-1}
    total=$((machines * ${NUM_PROCESSES:-$num_gpus}))
    if [ "$num_gpus" = 0 ]; then
        chosen=configs/accelerate/cpu.yaml
    elif [ "$total" = 1 ] && [[ $chosen == */ddp.yaml ]]; then
        chosen=configs/accelerate/single_gpu.yaml # the others keep float32 weights beside the bfloat16 ones, on one GPU too
    fi
    options=(--quiet --config_file "${ACCELERATE_CONFIG:-$chosen}")
    if [ "$total" -gt 0 ]; then options+=(--num_processes "$total"); fi
    if [ "$machines" -gt 1 ]; then
        options+=(--num_machines "$machines" --machine_rank "$MACHINE_RANK")
        options+=(--main_process_ip "$MAIN_PROCESS_IP" --main_process_port "$MAIN_PROCESS_PORT")
    elif [ "$total" -gt 1 ]; then
        options+=(--main_process_port 0) # any free one: another run may be on this machine
    fi
    if $stopped; then exit 143; fi

    # The launcher must not hear SIGTERM: it would kill its processes 30 s later, in the middle of a long checkpoint. With
    # job control it gets a process group of its own, and so an interrupt that is not ignored, as it is in the background.
    set -m
    (
        trap '' TERM
        export PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT
        exec accelerate launch "${options[@]}" "$script" --config "$recipe/config.yaml" "$@" </dev/null
    ) &
    launcher=$!
    trap 'kill -INT -- "-$launcher"' INT
    wait "$launcher" || true
    while kill -0 "$launcher" 2>/dev/null; do # a signal ended the wait
        # Again until it is heard: a process that has only begun to load does not listen yet.
        if $stopped; then pkill -TERM -P "$launcher" || true; fi
        sleep 1
    done
    code=0
    wait "$launcher" || code=$?
    if [ "$code" != 0 ] && [ -s "$REDI_EXIT_CODE_FILE" ]; then code=$(<"$REDI_EXIT_CODE_FILE"); fi
    if $stopped && [ "$code" != 0 ]; then code=143; fi
    exit "$code"
}

main "$@"
