"""Builds the pairs for stage 2: of each problem, the first generation that both verifiers accept, and the first other.

python data_preprocess/build_pairs.py --input open-r1/OpenR1-Math-Raw --output data/pairs \
    --tokenizer Qwen/Qwen2.5-Math-1.5B --expect-rows 53175
"""

import argparse
from functools import partial

from redi.data.build import Filter, build, build_parser, excluded_sources, whole_number
from redi.data.lengths.length_filter import (
    LENGTH_RULES,
    PROMPT_TOO_LONG,
    RESPONSE_TOO_LONG,
    filter_by_length,
    load_tokenizer,
)
from redi.data.reading.corpus import pinned_input
from redi.data.selection import NEGATIVES, NO_NEGATIVE, NO_POSITIVE, select_pairs
from redi.runs.errors import UsageError, entry_point

# https://huggingface.co/papers/2505.24850: 800 + 19,000 tokens are what stage 2 trains on without truncation.
DEFAULT_LIMITS = {"max_prompt_tokens": 800, "max_response_tokens": 19000}
LENGTH_DEFAULTS = {"length_rule": "paper", **DEFAULT_LIMITS}  # the options that only --tokenizer gives a meaning

SUMMARY = {
    "not-both": "Pairs of each problem's first trace that both verifiers accept, and its first that not both accept.",
    "neither": "Pairs of each problem's first trace that both verifiers accept, and its first that neither accepts.",
}


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    config = {"negatives": options.negatives, "exclude_source": excluded_sources(options), "seed": options.seed}
    inputs = {"corpus": pinned_input(options.input, options.revision)}
    reasons = [NO_POSITIVE, NO_NEGATIVE]
    if options.tokenizer is not None:
        config |= {name: getattr(options, name) for name in LENGTH_DEFAULTS}
        inputs["tokenizer"] = options.tokenizer
        reasons += [PROMPT_TOO_LONG, RESPONSE_TOO_LONG]
    build(
        options,
        summary=SUMMARY[options.negatives],
        config=config,
        inputs=inputs,
        reasons=reasons,
        select=partial(select_pairs, exclude_sources=config["exclude_source"], negatives=options.negatives),
        load_filter=partial(length_filter, options) if options.tokenizer is not None else None,
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--negatives",
        choices=NEGATIVES,
        default="not-both",
        help="rejected: the first that not both, or neither, of the verifiers accept",
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="count tokens with it, and drop the pairs over a limit")
    for name, limit in DEFAULT_LIMITS.items():
        help_text = f"inclusive; {limit} where --tokenizer is given"
        parser.add_argument(option_of(name), type=whole_number, metavar="N", help=help_text)
    parser.add_argument(
        "--length-rule",
        choices=LENGTH_RULES,
        help="paper, the default where --tokenizer is given: each response alone through the chat template, plus 1; "
        "exact: the tokens that training sees",
    )
    options = parser.parse_args(argv)
    for name, default in LENGTH_DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif options.tokenizer is None:
            raise UsageError(
                f"{option_of(name)} needs a tokenizer to count with; pass --tokenizer with the base model"
            )
    return options


def option_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def length_filter(options: argparse.Namespace) -> Filter:
    return partial(
        filter_by_length,
        counter=load_tokenizer(options.tokenizer, options.length_rule),
        rule=options.length_rule,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
    )


if __name__ == "__main__":
    main()
