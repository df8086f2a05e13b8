#!/usr/bin/env bash
# From raw traces to a table of the paper. What is done is recognised and skipped, so the same command goes on after any
# interruption:
#   bash recipes/pipeline.sh TARGET              everything, in order
#   bash recipes/pipeline.sh TARGET STAGE [RUN]  one stage; `list` prints them all; `evaluate RUN I/N` samples for one
#                                                part of the problems, and `evaluate RUN` then gathers them;
#                                                `tokenize RUN` is the part of `train RUN` that needs no GPU
# TARGET: table1 or table4 (the final model), table2 or table3 (the ablations), controls, lora (one GPU of 24 GB).
# From the environment, options separated by spaces:
#   CORPUS      raw traces, open-r1/OpenR1-Math-Raw; for another corpus the paper's numbers of rows are not asked for
#   BASE_MODEL  folder or Hub id, Qwen/Qwen2.5-Math-1.5B
#   ROOT        folder of data/, models/ and runs/, the repository
#   BENCHMARKS  names or files, those of the paper
#   PREPARE_OPTIONS, PAIRS_OPTIONS, TRAIN_OPTIONS, EVALUATE_OPTIONS  for prepare_base_model.py, build_pairs.py, every
#               train.sh and scripts/evaluate.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
source recipes/watch.sh
fail() {
    echo "error: $1" >&2
    exit 2
}
target=${1:-} stage=${2:-all} run=${3:-} shard=${4:-}
root=${ROOT:+$ROOT/} corpus=${CORPUS:-open-r1/OpenR1-Math-Raw} base=${BASE_MODEL:-Qwen/Qwen2.5-Math-1.5B}
read -ra prepare_options <<<"${PREPARE_OPTIONS:-}"
read -ra pairs_options <<<"${PAIRS_OPTIONS:-}"
read -ra train_options <<<"${TRAIN_OPTIONS:-}"
read -ra evaluate_options <<<"${EVALUATE_OPTIONS:-}"
read -ra benchmarks <<<"${BENCHMARKS:-}"

# ROW=RUN, where ROW is the run's in the tables, and every run comes after the one that it starts from.
final=(sft-5ep=sft/qwen2.5-math-1.5b_5ep redi=redi/qwen2.5-math-1.5b_alpha0.8)
case $target in
    table1 | table4) rows=("${final[@]}") ;;
    table2 | table3)
        rows=(sft-3ep=sft/qwen2.5-math-1.5b_3ep dpo=dpo/qwen2.5-math-1.5b_3ep_beta0.001)
        rows+=(simpo=simpo/qwen2.5-math-1.5b_3ep_beta2_gamma1 symmetric=redi/qwen2.5-math-1.5b_3ep_symmetric)
        rows+=(redi-3ep=redi/qwen2.5-math-1.5b_3ep_alpha0.8)
        ;;
    controls)
        rows=("${final[@]}" more-sft=sft/qwen2.5-math-1.5b_5ep_more)
        for name in alpha0 shuffled_negatives neither_negatives; do rows+=("$name=redi/qwen2.5-math-1.5b_$name"); done
        ;;
    lora) rows=(sft-lora=sft/qwen2.5-math-1.5b_lora redi-lora=redi/qwen2.5-math-1.5b_lora) ;;
    *) fail "TARGET is one of table1, table2, table3, table4, controls, lora; not '$target'" ;;
esac
runs=("${rows[@]#*=}")

value() { # RUN KEY: of its config.yaml, a path below ROOT
    echo "$root$(sed -n "s/^$2: *\([^ #]*\).*/\1/p" "recipes/$1/config.yaml")"
}

stages() {
    echo data
    for each in "${runs[@]}"; do printf '%s\n' "train $each" "evaluate $each"; done
    echo table
}

# The corpus; that of the Hub at the commit that an earlier dataset was built from, so that all are of one, and what is
# done is recognised without a connection.
source_of_data() {
    local found=""
    if [ -z "${CORPUS:-}" ]; then
        found=$(grep -hom 1 "$corpus@[0-9a-f]\{40\}" "${root}data/"*/manifest.json 2>/dev/null | head -n 1) || true
    fi
    echo "${found:-$corpus}"
}

build_dataset() { # FOLDER MODEL
    local expect=() raw
    raw=$(source_of_data)
    case $1 in
        */positives | positives)
            if [ -z "${CORPUS:-}" ]; then expect=(--expect-rows 77629); fi
            python data_preprocess/build_positives.py --input "$raw" --output "$1" "${expect[@]}"
            ;;
        */pairs)
            if [ -z "${CORPUS:-}" ]; then expect=(--expect-rows 53175); fi
            python data_preprocess/build_pairs.py --input "$raw" --output "$1" --tokenizer "$2" \
                "${pairs_options[@]}" "${expect[@]}"
            ;;
        */pairs_neither)
            python data_preprocess/build_pairs.py --input "$raw" --output "$1" --tokenizer "$2" \
                --negatives neither "${pairs_options[@]}"
            ;;
        */pairs_shuffled_negatives)
            python data_preprocess/shuffle_negatives.py --input "${1%_shuffled_negatives}" --output "$1"
            ;;
    esac
}

data() {
    local model
    model=$(value "${runs[0]}" model_name_or_path)
    python scripts/prepare_base_model.py --model "$base" --output "$model" "${prepare_options[@]}"
    for each in "${runs[@]}"; do build_dataset "$(value "$each" dataset_name)" "$model"; done # the same one again is done
    if [ ${#benchmarks[@]} -eq 0 ]; then
        python scripts/evaluate.py download --benchmark-folder "${root}data/benchmarks"
        for name in math500 aime24 amc23 minerva olympiadbench; do
            [ -f "${root}data/benchmarks/$name.jsonl" ] || fail "${root}data/benchmarks/$name.jsonl is missing: it is \
not on the Hub as the paper used it; put it there (id, problem, answer), or set BENCHMARKS"
        done
    fi
}

train() { # RUN [OPTION ...]; of a run that tries several rates, the one of its config.yaml
    VALUES=$(sed -n 's/^learning_rate: *\([^ #]*\).*/\1/p' "recipes/$1/config.yaml")
    export VALUES
    exec bash "recipes/$1/train.sh" --model_name_or_path "$(value "$1" model_name_or_path)" \
        --dataset_name "$(value "$1" dataset_name)" --output_dir "$(value "$1" output_dir)" "${train_options[@]}" \
        "${@:2}"
}

tokenize() { # RUN
    train "$1" --tokenize_only true
}

evaluate() { # RUN [OPTION ...]
    local options=(--protocol paper_final --benchmark-folder "${root}data/benchmarks")
    if [ ${#benchmarks[@]} -gt 0 ]; then options+=(--benchmark "${benchmarks[@]}"); fi
    if [ -n "$shard" ]; then options+=(--shard "$shard"); fi
    bash scripts/evaluate.sh "$(value "$1" output_dir)" "${options[@]}" "${evaluate_options[@]}" \
        "${@:2}"
}

table() {
    local folders=() pairs=() output=${root}runs/report/$target
    for row in "${rows[@]}"; do
        model=$(value "${row#*=}" output_dir)
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
    local number=0 total each start
    total=$(stages | wc -l)
    mapfile -t all_stages < <(stages)
    for each in "${all_stages[@]}"; do
        number=$((number + 1)) start=$SECONDS
        echo "[$number/$total] $each"
        # shellcheck disable=SC2086 # a stage and its run
        watch leader bash recipes/pipeline.sh "$target" $each
        echo "[$number/$total] $each: done in $((SECONDS - start)) s"
    done
}

has_run() {
    [ -n "$run" ] && [[ " ${runs[*]} " == *" $run "* ]] || fail "$stage is of a run of $target: ${runs[*]}"
}

case $stage in
    all) all ;;
    list) stages ;;
    data | table) watch group "$stage" ;;
    tokenize | train) has_run && "$stage" "$run" ;; # which pass SIGTERM on
    evaluate) has_run && watch group evaluate "$run" ;;
    *) fail "STAGE is one of data, tokenize, train, evaluate, table, list; not '$stage'" ;;
esac; exit # read with the line before: this file may change while a stage runs
