"""Builds the positives of stage 1: each problem of a raw corpus with its first generation that the verifiers accept.

python data_preprocess/build_positives.py --input open-r1/OpenR1-Math-Raw --output data/positives --expect-rows 77629
"""

from redi.data.build import build_positives
from redi.data.selection import RULES
from redi.runs.dataset_options import corpus_parser
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = corpus_parser(__doc__.splitlines()[0])
    parser.add_argument("--rule", choices=RULES, default="both", help="how many of the two verifiers must accept")
    print(build_positives(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
