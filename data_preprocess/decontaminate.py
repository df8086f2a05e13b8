"""Finds the problems that share 8 words in a row with a question of the benchmarks, and drops them on request.

python data_preprocess/decontaminate.py --input data/pairs --output data/overlaps --show 3
python data_preprocess/decontaminate.py --input data/pairs --output data/clean-pairs --drop

DIR gets `report.json` and `manifest.json`, and with --drop the other rows as `train-*.parquet`, unchanged.
"""

from pathlib import Path

from redi.data.decontamination import NGRAM_WORDS, decontaminate
from redi.evaluation.benchmarks import DEFAULT_FOLDER, KNOWN
from redi.runs.dataset_options import rows_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = rows_parser(__doc__.splitlines()[0], "folder to write")
    help_text = "names, or files of id, problem, answer"
    parser.add_argument("--benchmark", nargs="+", default=list(KNOWN), metavar="NAME_OR_JSONL", help=help_text)
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="of known names")
    help_text = "more questions, of which only 'problem' is read"
    parser.add_argument("--jsonl", nargs="+", default=[], type=Path, metavar="FILE", help=help_text)
    parser.add_argument("--ngram-words", type=whole_number, default=NGRAM_WORDS, metavar="N", help="words in a row")
    parser.add_argument("--show", type=whole_number, default=0, metavar="N", help="print N overlaps per benchmark")
    parser.add_argument("--drop", action="store_true", help="write the rows that overlap with nothing")
    print(decontaminate(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
