#!/usr/bin/env bash
# The whole method on a CPU, on a synthetic task: traces -> positives and pairs -> SFT -> REDI -> table and plots.
#   bash scripts/quickstart.sh [--seed N] [--full] [--output DIR]
# --full adds runs over alpha, the collapse at alpha 1, bounded negatives, DPO and SimPO. Results go to runs/quickstart,
# or to runs/quickstart-seedN for another seed. A second call skips every step that is finished.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/quickstart/steps.sh # reads the options; defines `step`, `train` and `evaluate`
bash scripts/setup.sh

step "task: 6,000 problems with 4 teacher traces each, 500 test problems, an untrained model" \
    python scripts/quickstart/make_task.py --output "$out/task" --seed "$seed"
step "positives: the first correct trace of each problem" \
    python data_preprocess/build_positives.py --input "$out/task/raw" --output "$out/positives" --seed "$seed"
step "pairs: the first correct and the first incorrect trace of each problem" \
    python data_preprocess/build_pairs.py --input "$out/task/raw" --output "$out/pairs" --seed "$seed"

train sft "stage 1: SFT on the positives" sft/quickstart task/base positives
train redi "stage 2: REDI on the pairs, alpha 0.8" redi/quickstart sft pairs
# As many traces as REDI sees: two per pair, in batches of 32.
train sft_more "control: more SFT instead of stage 2" sft/quickstart_more sft positives --max_steps "$(matched_steps)"
models=(base sft sft_more redi) stage_2=(redi)

if $full; then
    train redi_alpha0 "alpha 0: more positives only" redi/quickstart sft pairs --alpha 0
    train redi_alpha0.2 "alpha 0.2" redi/quickstart sft pairs --alpha 0.2
    train redi_alpha0.5 "alpha 0.5" redi/quickstart sft pairs --alpha 0.5
    train symmetric_alpha1 "alpha 1, the symmetric objective" redi/quickstart sft pairs --alpha 1
    train redi_alpha0.8_lr2e-4 "alpha 0.8 at a high learning rate" redi/quickstart sft pairs --learning_rate 2e-4
    train symmetric_alpha1_lr2e-4 "alpha 1 at a high learning rate: collapse" redi/quickstart sft pairs \
        --alpha 1 --learning_rate 2e-4
    train bounded_alpha0.8_lr2e-4 "alpha 0.8, bounded negatives, at the same learning rate" redi/quickstart sft pairs \
        --bounded_negatives true --learning_rate 2e-4
    train bounded_alpha1_lr2e-4 "alpha 1, bounded negatives, at the same learning rate" redi/quickstart sft pairs \
        --alpha 1 --bounded_negatives true --learning_rate 2e-4
    train dpo "DPO" dpo/quickstart sft pairs
    train simpo "SimPO" simpo/quickstart sft pairs
    stage_2+=(redi_alpha0 redi_alpha0.2 redi_alpha0.5 symmetric_alpha1 redi_alpha0.8_lr2e-4 symmetric_alpha1_lr2e-4)
    stage_2+=(bounded_alpha0.8_lr2e-4 bounded_alpha1_lr2e-4 simpo)
    models+=("${stage_2[@]:1}" dpo)
fi

for model in "${models[@]}"; do evaluate "$model"; done
answers=("${models[@]/#/$out/evaluation/}")
step "report: table, plots and a page to browse the answers" \
    python scripts/evaluate.py report --input "${answers[@]}" --baseline sft sft_more --output "$out/report"
step "dynamics: LogPS and gradient norm during stage 2" \
    python scripts/plot_training.py "${stage_2[@]/#/$out/}" --output "$out/training_dynamics.png"
step "habit: how often the teacher and each model skip steps" \
    python scripts/quickstart/show_habit.py --corpus "$out/task/raw" --input "${answers[@]}" --output "$out/habit.md"

cp "$out/report/table.md" "$out/report/pass_at_1.png" "$out/"
cat "$out/table.md" "$out/habit.md"
echo "finished in $SECONDS s: $out/table.md, pass_at_1.png, training_dynamics.png, habit.md, report/report.html"
