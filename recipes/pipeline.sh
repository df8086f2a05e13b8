#!/usr/bin/env bash
# From raw traces to a table of the paper. Finished work is recognised and skipped, so the same command resumes after
# any interruption:
#   bash recipes/pipeline.sh TARGET                          every stage, in order
#   bash recipes/pipeline.sh TARGET list                     print the stages
#   bash recipes/pipeline.sh TARGET STAGE [RUN [OPTION ...]] one stage; options go to train.sh or evaluate.py run
# TARGET: table1 or table4 (the final model), table2 or table3 (the ablations), controls, lora (one GPU of 24 GB).
# Besides the stages of the list, `tokenize RUN` is the part of `train RUN` that needs no GPU, and
# `evaluate RUN --shard I/N` samples for one part of the problems, which `evaluate RUN` then gathers.
# Environment variables; options are separated by spaces or newlines:
#   CORPUS      raw traces; default open-r1/OpenR1-Math-Raw. For any other, the paper's row counts are not checked
#   BASE_MODEL  folder or Hub id; default Qwen/Qwen2.5-Math-1.5B
#   ROOT        folder for data/, models/ and runs/; default: the repository
#   BENCHMARKS  names or files; default: the paper's
#   PREPARE_OPTIONS, PAIRS_OPTIONS, TRAIN_OPTIONS, EVALUATE_OPTIONS
#               for prepare_base_model.py, build_pairs.py, every train.sh and `evaluate.py run`
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" && exit ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
source recipes/watch.sh
fail() {
    echo "error: $1" >&2
    exit 2
}
target=${1:-} stage=${2:-all} run=${3:-} options=("${@:4}")
root=${ROOT:+$ROOT/} corpus=${CORPUS:-open-r1/OpenR1-Math-Raw} base=${BASE_MODEL:-Qwen/Qwen2.5-Math-1.5B}
read -rd "" -a prepare_options <<<"${PREPARE_OPTIONS:-}" || true
read -rd "" -a pairs_options <<<"${PAIRS_OPTIONS:-}" || true
read -rd "" -a train_options <<<"${TRAIN_OPTIONS:-}" || true
read -rd "" -a evaluate_options <<<"${EVALUATE_OPTIONS:-}" || true
read -rd "" -a benchmarks <<<"${BENCHMARKS:-}" || true

# ROW=RUN: the row in the paper's tables and the recipe. A run comes after the one that it starts from.
final=(sft-5ep=sft/qwen2.5-math-1.5b_5ep redi=redi/qwen2.5-math-1.5b_alpha0.8)
case $target in
    table1 | table4) rows=("${final[@]}") ;;
    table2 | table3)
        rows=(sft-3ep=sft/qwen2.5-math-1.5b_3ep dpo=dpo/qwen2.5-math-1.5b_3ep_beta0.001)
        rows+=(simpo=simpo/qwen2.5-math-1.5b_3ep_beta2_gamma1 symmetric=redi/qwen2.5-math-1.5b_3ep_symmetric)
        rows+=(redi-3ep=redi/qwen2.5-math-1.5b_3ep_alpha0.8)
        ;;
    controls)
        rows=("${final[@]}" sft_more=sft/qwen2.5-math-1.5b_5ep_more)
        for name in alpha0 shuffled_negatives neither_negatives; do rows+=("$name=redi/qwen2.5-math-1.5b_$name"); done
        ;;
    lora) rows=(sft-lora=sft/qwen2.5-math-1.5b_lora redi-lora=redi/qwen2.5-math-1.5b_lora) ;;
    *) fail "TARGET must be table1, table2, table3, table4, controls or lora, not '$target'" ;;
esac
runs=("${rows[@]#*=}")

value() { # RUN KEY: from the recipe
    python -m redi.runs.recipe "recipes/$1" "$2"
}

path() { # RUN KEY: a path of the recipe, below ROOT unless it is absolute
    local found
    found=$(value "$1" "$2") || return
    if [[ $found == /* ]]; then echo "$found"; else echo "$root$found"; fi
}

stages() {
    echo data
    for each in "${runs[@]}"; do printf '%s\n' "train $each" "evaluate $each"; done
    echo table
}

# Every dataset is built from the same commit of the Hub's corpus as the first one. So they agree on the rows, and a
# finished one is recognised without a connection.
source_of_data() {
    local found=""
    if [ -z "${CORPUS:-}" ]; then
        found=$(grep -hom 1 "$corpus@[0-9a-f]\{40\}" "${root}data/"*/manifest.json 2>/dev/null | head -n 1) || true
    fi
    echo "${found:-$corpus}"
}

build_pairs() { # FOLDER MODEL [OPTION ...]
    python data_preprocess/build_pairs.py --input "$(source_of_data)" --output "$1" --tokenizer "$2" \
        ${pairs_options[@]+"${pairs_options[@]}"} "${@:3}"
}

build_dataset() { # FOLDER MODEL
    local num_positives=() num_pairs=()
    if [ -z "${CORPUS:-}" ]; then num_positives=(--expect-rows 77629) num_pairs=(--expect-rows 53175); fi
    case $(basename "$1") in
        positives)
            python data_preprocess/build_positives.py --input "$(source_of_data)" --output "$1" ${num_positives[@]+"${num_positives[@]}"}
            ;;
        pairs) build_pairs "$@" ${num_pairs[@]+"${num_pairs[@]}"} ;;
        pairs_neither) build_pairs "$@" --negatives neither ;;
        pairs_shuffled_negatives)
            python data_preprocess/shuffle_negatives.py --input "${1%_shuffled_negatives}" --output "$1"
            ;;
    esac
}

data() {
    local model dataset
    model=$(path "${runs[0]}" model_name_or_path)
    python scripts/prepare_base_model.py --model "$base" --output "$model" ${prepare_options[@]+"${prepare_options[@]}"}
    for each in "${runs[@]}"; do
        dataset=$(path "$each" dataset_name)
        build_dataset "$dataset" "$model" # a dataset of an earlier run is already done
    done
    if [ ${#benchmarks[@]} -gt 0 ]; then return; fi
    python scripts/evaluate.py download --benchmark-folder "${root}data/benchmarks"
    for name in math500 aime24 amc23 minerva olympiadbench; do
        [ -f "${root}data/benchmarks/$name.jsonl" ] || fail "${root}data/benchmarks/$name.jsonl is missing: the Hub \
does not have it as the paper used it; put the file there (id, problem, answer), or set BENCHMARKS"
    done
}

train() { # RUN [OPTION ...]
    local model dataset output
    model=$(path "$1" model_name_or_path)
    dataset=$(path "$1" dataset_name)
    output=$(path "$1" output_dir)
    VALUES=$(value "$1" learning_rate) # a run that would try several rates trains only the one of its config.yaml
    export VALUES
    exec bash "recipes/$1/train.sh" --model_name_or_path "$model" --dataset_name "$dataset" --output_dir "$output" \
        ${train_options[@]+"${train_options[@]}"} "${@:2}"
}

evaluate() { # RUN [OPTION ...]
    local model arguments=(--protocol paper_final --benchmark-folder "${root}data/benchmarks")
    model=$(path "$1" output_dir)
    if [ ${#benchmarks[@]} -gt 0 ]; then arguments+=(--benchmark ${benchmarks[@]+"${benchmarks[@]}"}); fi
    python scripts/evaluate.py run "$model" "${arguments[@]}" ${evaluate_options[@]+"${evaluate_options[@]}"} "${@:2}"
}

table() {
    local model folder folders=() pairs=() output=${root}runs/report/$target
    for row in "${rows[@]}"; do
        model=$(path "${row#*=}" output_dir)
        [ -d "$model" ] || fail "$model is missing: run the stage train ${row#*=} first"
        folder=$(evaluate "${row#*=}" --where)
        folders+=("$folder") pairs+=("${row%%=*}=$folder")
    done
    python scripts/evaluate.py report --input "${folders[@]}" --output "$output" --baseline "${folders[0]}"
    if [[ $target == table* ]]; then
        python scripts/reproduce.py "$target" --runs "${pairs[@]}" --output "$output"
    fi
    echo "wrote $output"
}

all() {
    local number=0 start each all_stages
    mapfile -t all_stages < <(stages)
    for each in "${all_stages[@]}"; do
        number=$((number + 1)) start=$SECONDS
        echo "[$number/${#all_stages[@]}] $each"
        # shellcheck disable=SC2086 # a stage and its run
        watch leader bash recipes/pipeline.sh "$target" $each
        echo "[$number/${#all_stages[@]}] $each: done in $((SECONDS - start)) s"
    done
}

check_run() {
    [ -n "$run" ] && [[ " ${runs[*]} " == *" $run "* ]] || fail "$stage needs a run of $target: ${runs[*]}"
}

case $stage in
    all) all ;;
    list) stages ;;
    data | table) watch group "$stage" ;;
    tokenize) check_run && train "$run" --tokenize_only true ;;
    train) check_run && train "$run" ${options[@]+"${options[@]}"} ;; # train.sh passes SIGTERM on
    evaluate) check_run && watch group evaluate "$run" ${options[@]+"${options[@]}"} ;;
    *) fail "STAGE must be data, tokenize, train, evaluate, table or list, not '$stage'" ;;
esac; exit # on the line before, so that bash has read it: this file may change while a stage runs
