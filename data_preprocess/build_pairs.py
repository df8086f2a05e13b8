"""Builds the pairs of stage 2: of each problem, the first generation that both verifiers accept, and the first other.

python data_preprocess/build_pairs.py --input open-r1/OpenR1-Math-Raw --output data/pairs \
    --tokenizer Qwen/Qwen2.5-Math-1.5B --expect-rows 53175
"""

from redi.data.build import build_pairs
from redi.data.lengths.length_rules import LENGTH_RULES, MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS
from redi.data.selection import NEGATIVES
from redi.runs.dataset_options import corpus_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = corpus_parser(__doc__.splitlines()[0])
    help_text = "rejected: the first generation that not both, or neither, of the verifiers accept"
    parser.add_argument("--negatives", choices=NEGATIVES, default="not-both", help=help_text)
    parser.add_argument("--tokenizer", metavar="PATH", help="count tokens with it, and drop the pairs over a limit")
    for role, limit in (("prompt", MAX_PROMPT_TOKENS), ("response", MAX_RESPONSE_TOKENS)):
        help_text = f"inclusive; {limit} if --tokenizer is given"
        parser.add_argument(f"--max-{role}-tokens", type=whole_number, metavar="N", help=help_text)
    help_text = "paper, the default with --tokenizer: each turn alone, plus 1; exact: the tokens that training sees"
    parser.add_argument("--length-rule", choices=LENGTH_RULES, help=help_text)
    print(build_pairs(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
