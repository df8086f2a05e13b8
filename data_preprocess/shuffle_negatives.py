"""Gives every pair the negative of another problem: a control of whether negatives must belong to their problem.

python data_preprocess/shuffle_negatives.py --input data/pairs --output data/pairs_shuffled_negatives
"""

from redi.data.shuffled_negatives import shuffle_negatives
from redi.runs.dataset_options import FILES_HELP, rows_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    input_help = f"pairs: {FILES_HELP}"
    parser = rows_parser(__doc__.splitlines()[0], "folder to write train-*.parquet into", input_help)
    parser.add_argument("--seed", type=whole_number, default=42, help="decides which pair gets which negative")
    print(shuffle_negatives(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
