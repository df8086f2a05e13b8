"""Studies how long the traces of pairs or positives are, by source, and what limits would drop.

python data_preprocess/study_lengths.py --input data/pairs --output data/pairs-lengths --max-response-tokens 19000

DIR gets `lengths.png`, and the percentiles as `lengths.md` and `lengths.json`.
"""

from redi.data.lengths.length_rules import LENGTH_RULES
from redi.data.lengths.length_study import study_lengths
from redi.runs.dataset_options import FILES_HELP, rows_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = rows_parser(__doc__.splitlines()[0], "folder to write", f"pairs or positives: {FILES_HELP}")
    help_text = "count tokens with it; by default the counts in the rows are used or, without any, characters"
    parser.add_argument("--tokenizer", metavar="PATH", help=help_text)
    help_text = "of --tokenizer, as in build_pairs.py; paper by default"
    parser.add_argument("--length-rule", choices=LENGTH_RULES, help=help_text)
    for role in ("prompt", "response"):
        help_text = f"show how many rows a limit on the {role} drops; inclusive"
        parser.add_argument(f"--max-{role}-tokens", type=whole_number, metavar="N", help=help_text)
    print(study_lengths(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
