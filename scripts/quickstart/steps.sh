#!/usr/bin/env bash
# Sourced by scripts/quickstart.sh: its options, and how a step runs and reports itself.
# shellcheck disable=SC2034,SC2154 # names that the two files share

seed=0 full=false out="" number=0
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=${2:-} && shift ;;
        --full) full=true ;;
        --output) out=${2:-} && shift ;;
        --help | -h) head -n 5 scripts/quickstart.sh | tail -n +2 && exit ;;
        *) echo "error: unknown option '$1'; the options are --seed N, --full and --output DIR" >&2 && exit 2 ;;
    esac
    [ $# -gt 0 ] && shift
done
[[ $seed =~ ^[0-9]+$ ]] || { echo "error: --seed '$seed' must be a whole number" >&2 && exit 2; }
if [ -n "$out" ]; then
    [[ $out == /* ]] || out=$called_from/$out
else
    out=runs/quickstart
    [ "$seed" = 0 ] || out=runs/quickstart-seed$seed
fi

# A model of 282k parameters gains nothing from a GPU or a second thread, and nothing here needs a network.
export CUDA_VISIBLE_DEVICES="" DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export PATH="$PWD/.venv/bin:$PATH"

# Runs a command, with its output in a log and its latest progress bar on the terminal.
step() { # "NAME: DESCRIPTION" COMMAND ...
    local log start=$SECONDS code=0
    log=$out/logs/${1%%:*}.log log=${log// /_}
    mkdir -p "$out/logs"
    number=$((number + 1))
    printf '[%2d] %s\n     $ %s\n' "$number" "$1" "${*:2}"
    printf '$ %s\n' "${*:2}" >>"$log"
    "${@:2}" >>"$log" 2>&1 </dev/null &
    local child=$!
    trap 'kill $child 2>/dev/null || true; wait $child || true; exit 143' TERM
    trap 'kill $child 2>/dev/null || true; wait $child || true; exit 130' INT # a background process ignores it
    while [ -t 1 ] && kill -0 $child 2>/dev/null; do
        printf '\r\033[K     %.100s' "$(tail -c 1000 "$log" | tr '\r' '\n' | grep -a '%|' | tail -n 1)"
        sleep 0.5
    done
    wait $child || code=$?
    trap - TERM INT
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ $code != 0 ]; then
        tail -n 15 "$log" >&2
        echo "error: this step failed; its complete output is in $log" >&2
        exit $code
    fi
    if tail -n 1 "$log" | grep -q already; then
        echo "     already finished"
    else
        printf '     done in %d s\n' $((SECONDS - start))
    fi
}

train() { # NAME DESCRIPTION RECIPE START_MODEL DATASET [--key value ...]
    step "$1: $2" bash "recipes/$3/train.sh" --model_name_or_path "$out/$4" --dataset_name "$out/$5" \
        --output_dir "$out/$1" --seed "$seed" "${@:6}"
}

matched_steps() {
    python -c 'import json, math, sys
print(2 * math.ceil(json.load(open(sys.argv[1]))["counts"]["rows"] / 32))' "$out/pairs/manifest.json"
}

evaluate() { # NAME
    local model=$out/$1
    if [ "$1" = base ]; then model=$out/task/base; fi
    step "$1 answers: 4 for each of the 500 test problems" python scripts/evaluate.py generate --model "$model" \
        --benchmark "$out/task/digits.jsonl" --output "$out/evaluation/$1" --backend transformers --prompt bare \
        --n 4 --temperature 0.6 --top-p 0.95 --max-tokens 80 --seed "$seed"
    step "$1 grades: against the reference answers" python scripts/evaluate.py grade --input "$out/evaluation/$1"
}
