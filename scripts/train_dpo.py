"""The DPO baseline, Eq. (2): TRL's own `DPOTrainer` on the same pairs, with the start model as reference.

accelerate launch --config_file configs/accelerate/X.yaml scripts/train_dpo.py --config RECIPE.yaml [--key value ...]
"""

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from redi.data.tokens import split_pair
from redi.options import parse_options
from redi.runs import UsageError, entry_point
from redi.training import RunArguments, run_training


def split_prompts(rows: Dataset, args: DPOConfig) -> Dataset:
    """Pairs on disk to TRL's shape, which `DPOTrainer` does not make itself when there is a `prompt` column."""
    if not {"chosen", "rejected"} <= set(rows.column_names):
        raise UsageError(f"the dataset has no columns 'chosen' and 'rejected'; it has {rows.column_names}")

    def split(row: dict) -> dict:
        return dict(zip(("prompt", "chosen", "rejected"), split_pair(row), strict=True))

    with args.main_process_first():
        return rows.map(split, remove_columns=rows.column_names, desc="Splitting prompts")


@entry_point
def main(argv: list[str]) -> None:
    (run, args), given = parse_options(argv, [RunArguments, DPOConfig])
    if run.tokenize_only:
        raise UsageError("tokenize_only=true: DPOTrainer tokenises by itself, with the model loaded; remove it")
    run_training(run, args, given, prepare=lambda rows, tok: split_prompts(rows, args), trainer_class=DPOTrainer)


if __name__ == "__main__":
    main()
