"""Fills the verifier columns of a corpus with the project's grader, and compares it with existing labels.

python data_preprocess/verify.py --input data/traces.jsonl --output data/verified
python data_preprocess/verify.py --input data/raw --output data/agreement --report-only --show 5

DIR gets `report.json` and `manifest.json`, and without --report-only the complete corpus as `train-*.parquet`.
"""

from redi.data.reading.schema import VERIFIERS
from redi.data.verification import verify
from redi.runs.dataset_options import rows_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = rows_parser(__doc__.splitlines()[0], "folder to write")
    help_text = f"verifier columns to fill if a row has none, of {', '.join(VERIFIERS)}"
    names = {"nargs": "+", "choices": VERIFIERS, "default": list(VERIFIERS), "metavar": "NAME"}
    parser.add_argument("--columns", **names, help=help_text)
    parser.add_argument("--overwrite-labels", action="store_true", help="also fill them if a row has one")
    parser.add_argument("--report-only", action="store_true", help="grade and compare, but write no corpus")
    help_text = "grade a trace without </think> from its beginning: for teachers that do not think aloud"
    parser.add_argument("--whole-traces", action="store_true", help=help_text)
    parser.add_argument("--workers", type=whole_number, metavar="N", help="of the grader; one per core by default")
    parser.add_argument("--show", type=whole_number, default=0, metavar="N", help="print N disagreements of each kind")
    print(verify(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
