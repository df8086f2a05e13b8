#!/usr/bin/env bash
# How a script passes SIGTERM on to what it runs. Source this file, then:
#   watch WHOM COMMAND ...   runs COMMAND in a separate process group and returns its exit code
# SIGTERM goes to WHOM, again every second until COMMAND ends. The exit code is then 143 unless COMMAND succeeded, and
# later calls return 143 without starting anything. SIGHUP (a closed terminal) counts as SIGTERM. WHOM is
#   leader    COMMAND alone, which stops its own processes
#   group     COMMAND and the processes that it started
#   children  the processes that COMMAND started, but not COMMAND
stopped=false

pass_on() { # WHOM
    case $1 in
        leader) kill -TERM "$child" ;;
        group) kill -TERM -- "-$child" ;;
        children) signal_children "$child" ;;
    esac 2>/dev/null || true
}

signal_children() { # PID; slim images have no pkill
    local stat fields parent
    if command -v pkill >/dev/null; then
        pkill -TERM -P "$1"
        return
    fi
    for stat in /proc/[0-9]*/stat; do
        read -r fields <"$stat" || continue # the process has ended
        read -r _ parent _ <<<"${fields##*) }"
        if [ "$parent" = "$1" ]; then kill -TERM "${fields%% *}"; fi
    done
}

watch() {
    local code=0
    if $stopped; then return 143; fi
    set -m
    "${@:2}" </dev/null &
    child=$!
    set +m
    # shellcheck disable=SC2064 # WHOM is the one of this call
    trap "stopped=true; pass_on $1" TERM HUP
    trap 'kill -INT -- "-$child"' INT
    wait "$child" || true
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait
        if $stopped; then pass_on "$1"; fi # again: a process that is still loading may not listen yet
        sleep 1
    done
    wait "$child" || code=$?
    if $stopped && [ "$code" != 0 ]; then code=143; fi
    return "$code"
}
