#!/usr/bin/env bash
# How a script passes SIGTERM and Ctrl-C on to what it runs. Source this file, then:
#   watch WHOM COMMAND ...   runs COMMAND in a separate process group and returns its exit code
# Signals go to WHOM. The exit code is then 143, after Ctrl-C 130, unless COMMAND succeeded, and later calls return it
# without starting anything. SIGHUP (a closed terminal) counts as SIGTERM. WHOM is
#   leader    COMMAND alone, a script that uses this file
#   group     COMMAND and the processes that it started, which get SIGTERM
#   children  the processes that COMMAND started, but not COMMAND
# `group` and `children` get the signal again every second until COMMAND ends, and SIGKILL at the next Ctrl-C.
stopped=0 # the exit code, after a signal

stop() { # WHOM SIGNAL CODE
    local before=$stopped
    if [ "$stopped" = 0 ]; then stopped=$3 received=$2; fi
    if [ "$2" = INT ] && [ "$before" != 0 ] && [ "$1" != leader ]; then
        signal_children "$child" KILL
        kill -KILL -- "-$child" 2>/dev/null || true
    else
        pass_on "$1" "$2"
    fi
}

pass_on() { # WHOM SIGNAL
    case $1 in
        leader) kill "-$2" "$child" ;;
        group) kill -TERM -- "-$child" ;;
        children) signal_children "$child" "$2" ;;
    esac 2>/dev/null || true
}

signal_children() { # PID [SIGNAL]; slim images have no pkill
    local stat fields parent signal=${2:-TERM}
    if command -v pkill >/dev/null; then
        pkill "-$signal" -P "$1" || true
    else
        for stat in /proc/[0-9]*/stat; do
            read -r fields <"$stat" || continue # the process has ended
            read -r _ parent _ <<<"${fields##*) }"
            if [ "$parent" = "$1" ]; then kill "-$signal" "${fields%% *}" || true; fi
        done
    fi
}

watch() {
    local code=0
    if [ "$stopped" != 0 ]; then return "$stopped"; fi
    set -m
    "${@:2}" </dev/null &
    child=$!
    set +m
    # shellcheck disable=SC2064 # WHOM is the one of this call
    trap "stop $1 TERM 143" TERM HUP
    # shellcheck disable=SC2064
    trap "stop $1 INT 130" INT
    wait "$child" || true
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait
        # Again: a process that is still loading may not listen yet.
        if [ "$stopped" != 0 ] && [ "$1" != leader ]; then pass_on "$1" "$received"; fi
        sleep 1 &
        wait $! || true # unlike `sleep` alone, a signal ends it at once
    done 2>/dev/null # bash names a job that was killed
    wait "$child" 2>/dev/null || code=$?
    if [ "$stopped" != 0 ] && [ "$code" != 0 ]; then code=$stopped; fi
    return "$code"
}
