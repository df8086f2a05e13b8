#!/usr/bin/env bash
# Samples, grades and reports in one command:
#   bash scripts/evaluate.sh CHECKPOINT_OR_RUN [--every-checkpoint] [--watch] [options of evaluate.py generate ...]
# CHECKPOINT_OR_RUN is a folder or a Hub id. Without --protocol or --benchmark the protocol is paper_final, and
# paper_intermediate for checkpoints.
#   --every-checkpoint  evaluate each checkpoint-N of the run in turn, not the run's model
#   --watch             the same, going on with new checkpoints as they appear, until the run is finished
#   --where             print the folder of the answers, and evaluate nothing
# Answers of RUN go to RUN/../evaluation/NAME, those of its checkpoints to RUN/../evaluation/NAME_checkpoint-N, and the
# report to RUN/../report/NAME; those of a Hub id to runs/. Another protocol than those above is part of the name, as in
# evaluation/NAME_quick and report/NAME_quick, so that a model may have the scores of several; its model card
# shows those of the usual one, and others only while it has none. What was sampled is not sampled again.
set -euo pipefail
usage() {
    echo "error: $1; bash scripts/evaluate.sh CHECKPOINT_OR_RUN [--every-checkpoint] [--watch] [options of generate ...]" >&2
    exit 2
}
[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || usage "the first argument is the model"
cd_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi

model=$1 every=false watch=false where=false golds=data/benchmarks
shift
[ -d "$cd_from/$model" ] && model=$(cd "$cd_from/$model" && pwd)
options=() chosen=false sharded=false protocol="" previous=""
for option in "$@"; do
    case $option in
        --every-checkpoint) every=true; continue ;;
        --watch) every=true watch=true; continue ;;
        --where) where=true; continue ;;
        --protocol=*) chosen=true protocol=${option#*=} ;;
        --protocol | --benchmark | --benchmark=*) chosen=true ;;
        --shard | --shard=*) sharded=true ;;
        --benchmark-folder=*) golds=${option#*=} ;;
        --output | --output=* | --model | --model=*) usage "$option is set by this script" ;;
    esac
    [ "$previous" = --benchmark-folder ] && golds=$option
    [ "$previous" = --protocol ] && protocol=$option
    previous=$option
    options+=("$option")
done
usual=paper_final
if $every || [[ $(basename "$model") == checkpoint-* ]]; then usual=paper_intermediate; fi
if $where && $every; then usage "--where is of one model"; fi
if ! $chosen; then options=(--protocol "$usual" "${options[@]}"); fi
protocol=${protocol##*/} # of a file too, the name
protocol=${protocol%.*}
suffix=${protocol:+_$protocol}
if [ "$protocol" = "$usual" ]; then suffix=""; fi

# Where the answers of a model go: evaluation/NAME beside it, or evaluation/RUN_checkpoint-N beside the run.
place() {
    if [ ! -d "$1" ]; then
        echo "runs/evaluation/${1//\//_}$suffix"
    elif [[ $(basename "$1") == checkpoint-* ]]; then
        local run
        run=$(dirname "$1")
        echo "$(dirname "$run")/evaluation/$(basename "$run")_$(basename "$1")$suffix"
    else
        echo "$(dirname "$1")/evaluation/$(basename "$1")$suffix"
    fi
}

evaluate() { # MODEL FOLDER
    python scripts/evaluate.py generate --model "$1" --output "$2" "${options[@]}"
    if $sharded; then return; fi
    local second=()
    if [ -f "$golds/minerva_sourcebox.jsonl" ] && grep -q '"benchmark": "minerva"' "$2/benchmark.jsonl"; then
        second=(--second-golds minerva_sourcebox)
    fi
    if [ ! "$2/graded.jsonl" -nt "$2/generations.jsonl" ]; then
        python scripts/evaluate.py grade --input "$2" --benchmark-folder "$golds" "${second[@]}"
    fi
}

report() { # NAME FOLDER...
    if $sharded; then return; fi
    local output card=() page=$model/README.md
    output=$(dirname "$(dirname "$2")")/report/$1
    if ! $every && grep -qs '^## Scores' "$page" && { [ -z "$suffix" ] || grep -q 'Not evaluated yet' "$page"; }; then
        card=(--model-card "$model")
    fi
    python scripts/evaluate.py report --input "${@:2}" --output "$output" "${card[@]}"
    echo "report: $output/report.html"
}

# Checkpoints that are complete: the trainer writes trainer_state.json last, not all at once.
complete() {
    local state
    for state in "$model"/checkpoint-*/trainer_state.json; do
        if python -c 'import json, sys; json.load(open(sys.argv[1]))' "$state" 2>/dev/null; then dirname "$state"; fi
    done | sort -V
}

if ! $every; then
    folder=$(place "$model")
    if $where; then echo "$folder" && exit; fi
    evaluate "$model" "$folder"
    report "$(basename "$folder")" "$folder"
    exit
fi

every_checkpoint() {
    [ -d "$model" ] || usage "--every-checkpoint: $model is no folder of a run"
    local finished found checkpoint folder folders=()
    local -A evaluated=()
    while true; do
        finished=false
        if [ -f "$model/manifest.json" ]; then finished=true; fi # written last; so no checkpoint comes after this look
        found=false
        mapfile -t checkpoints < <(complete)
        for checkpoint in "${checkpoints[@]}"; do
            folder=$(place "$checkpoint")
            if [ -n "${evaluated[$folder]:-}" ]; then continue; fi
            found=true evaluated[$folder]=yes
            evaluate "$checkpoint" "$folder"
            folders+=("$folder")
            report "$(basename "$model")$suffix" "${folders[@]}"
        done
        if ! $watch || { $finished && ! $found; }; then break; fi
        if ! $found; then sleep "${WATCH_SECONDS:-60}"; fi
    done
    [ ${#folders[@]} -gt 0 ] || usage "$model has no complete checkpoint"
}

every_checkpoint; exit # read together: this file may change while a run is watched
