"""Builds the positives for stage 1: each problem of a raw corpus with its first generation that the verifiers accept.

python data_preprocess/build_positives.py --input open-r1/OpenR1-Math-Raw --output data/positives --expect-rows 77629
"""

from functools import partial

from redi.data.build import build, build_parser, excluded_sources
from redi.data.reading.corpus import pinned_input
from redi.data.selection import NO_POSITIVE, RULES, select_positives
from redi.runs.errors import entry_point

SUMMARY = {
    "both": "Problems with their first trace that both verifiers accept.",
    "either": "Problems with their first trace that both verifiers accept, or else their first that one accepts.",
}


@entry_point
def main(argv: list[str]) -> None:
    parser = build_parser(__doc__.splitlines()[0])
    parser.add_argument("--rule", choices=RULES, default="both", help="how many of the two verifiers must accept")
    options = parser.parse_args(argv)
    config = {"rule": options.rule, "exclude_source": excluded_sources(options), "seed": options.seed}
    build(
        options,
        summary=SUMMARY[options.rule],
        config=config,
        inputs={"corpus": pinned_input(options.input, options.revision)},
        reasons=[NO_POSITIVE],
        select=partial(select_positives, rule=options.rule, exclude_sources=config["exclude_source"]),
    )


if __name__ == "__main__":
    main()
