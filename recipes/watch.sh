#!/usr/bin/env bash
# Read by pipeline.sh and by the train.sh of a sweep.
#   watch WHOM COMMAND ...  runs it in a process group of its own, and ends where it ends badly. SIGTERM goes on to the
#                           `group`, or to the `leader` alone, which tells the others; nothing further begins then.
stopped=false
watch() {
    local whom="" code
    if $stopped; then exit 143; fi
    set -m
    "${@:2}" </dev/null &
    child=$!
    set +m
    if [ "$1" = group ]; then whom=-; fi
    # shellcheck disable=SC2064 # the process is that of now
    trap "stopped=true; kill -TERM -- $whom$child 2>/dev/null || true" TERM
    trap 'kill -INT -- "-$child"' INT
    while true; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # else a signal ended the wait
    done
    if $stopped && [ "$code" = 0 ]; then code=143; fi
    [ "$code" = 0 ] || exit "$code"
}
