"""Builds the verifier ablation: the verdicts are inverted for half of the problems that have both kinds of trace.

python data_preprocess/ablate_verifiers.py --input open-r1/OpenR1-Math-Raw --output data/ablation \
    --tokenizer Qwen/Qwen2.5-Math-1.5B

DIR gets three datasets: `sft`, `main` and `inverted`. --expect-rows counts the rows of all three.
"""

from redi.data.lengths.length_rules import MAX_RESPONSE_TOKENS
from redi.data.verifier_ablation import ablate
from redi.runs.dataset_options import corpus_parser, whole_number
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = corpus_parser(__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", metavar="PATH", help="count tokens with it, and drop the pairs over the limit")
    help_text = f"inclusive, of the bare text plus 1; {MAX_RESPONSE_TOKENS} if --tokenizer is given"
    parser.add_argument("--max-response-tokens", type=whole_number, metavar="N", help=help_text)
    print(ablate(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
