#!/usr/bin/env bash
# Read by the train.sh of a sweep. `point COMMAND ...` runs a point and ends the sweep where the point ends badly. SIGTERM
# goes on to the point, which saves a checkpoint; no further one begins then.
child="" stopped=false
point() {
    local code=0
    if $stopped; then exit 143; fi
    set -m # a process group of its own, which hears an interrupt
    "$@" &
    child=$!
    set +m
    trap 'stopped=true; kill -TERM "$child" 2>/dev/null || true' TERM
    trap 'kill -INT -- "-$child"' INT
    while true; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # else a signal ended the wait
    done
    if $stopped && [ "$code" = 0 ]; then code=143; fi
    [ "$code" = 0 ] || exit "$code"
}
