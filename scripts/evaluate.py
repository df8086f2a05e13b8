"""Evaluates a model: sample answers, grade them, and put models side by side.

python scripts/evaluate.py download
python scripts/evaluate.py generate --model MODEL --protocol paper_intermediate --output runs/eval/redi
python scripts/evaluate.py grade --input runs/eval/redi
python scripts/evaluate.py report --input runs/eval/sft runs/eval/redi --output runs/eval/table --baseline sft
"""

import argparse
from pathlib import Path

from redi.evaluation.benchmarks import DEFAULT_FOLDER, SECOND_GOLDS
from redi.evaluation.generation.options import (
    add_benchmark_option,
    add_generate_options,
    describe_protocol,
    expand_protocol,
    settings_of,
)
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.command == "download":
        from redi.evaluation.download_benchmarks import download

        download(options.benchmark, options.benchmark_folder)
    elif options.command == "generate":
        run_generate(options)
    elif options.command == "grade":
        from redi.evaluation.grading.grade_folder import grade_folder

        folders = options.benchmark, options.benchmark_folder
        grade_folder(options.input, *folders, options.workers, options.second_golds)
    else:
        from redi.evaluation.reporting.report import report
        from redi.runs.model_card import set_scores

        limits = options.max_responses, options.show_disagreements
        report(options.input, options.output, options.baseline, *limits)
        if options.model_card:
            set_scores(options.model_card, (options.output / "table.md").read_text(encoding="utf-8"))


def run_generate(options: argparse.Namespace) -> None:
    from redi.evaluation.benchmarks import load_benchmarks
    from redi.evaluation.generation.generate import generate
    from redi.evaluation.generation.requests import parse_shard

    settings = settings_of(options)
    shard = parse_shard(options.shard) if options.shard else None
    if not options.benchmark:
        raise UsageError("--benchmark or a --protocol that names benchmarks is required")
    benchmarks = load_benchmarks(options.benchmark, options.benchmark_folder)
    generate(options.model, benchmarks, options.output, settings, shard, describe_protocol(options))


def parse(argv: list[str]) -> argparse.Namespace:
    if argv[:1] == ["generate"]:
        argv = ["generate", *expand_protocol(argv[1:])]
    parser = StrictParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    add_download(commands.add_parser("download", help="fetch benchmarks from the Hub"))
    add_generate(commands.add_parser("generate", help="sample n answers to every problem"))
    add_grade(commands.add_parser("grade", help="grade generations.jsonl into graded.jsonl"))
    add_report(commands.add_parser("report", help="tables, a page and a plot of graded folders"))
    return parser.parse_args(argv)


def add_download(parser: StrictParser) -> None:
    help_text = "math500, aime24, amc23, or, which differ from the paper's, minerva_hub, olympiadbench_hub"
    default = ["math500", "aime24", "amc23"]
    parser.add_argument("--benchmark", nargs="+", default=default, metavar="NAME", help=help_text)
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="to write into")


def add_generate(parser: StrictParser) -> None:
    parser.add_argument("--model", required=True, metavar="PATH", help="folder or Hub id; needs a chat template")
    add_benchmark_option(parser)
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="of known names")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new, or an earlier run's to go on with"
    )
    add_generate_options(parser)


def add_grade(parser: StrictParser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="an output of generate")
    add_benchmark_option(parser)
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="of known names")
    parser.add_argument(
        "--second-golds",
        nargs="+",
        default=[],
        choices=sorted(SECOND_GOLDS),
        help="grade the answers by these golds too, in rows of their own that no average counts",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes; one a core if not given")


def add_report(parser: StrictParser) -> None:
    parser.add_argument(
        "--input", required=True, nargs="+", type=Path, metavar="DIR", help="graded folders, a row each"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the tables, report.html, a plot"
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        metavar="DIR_OR_NAME",
        help="rows to which differences are given; the first if not given",
    )
    parser.add_argument(
        "--model-card", type=Path, metavar="DIR", help="model whose README.md gets the table as scores"
    )
    parser.add_argument("--max-responses", type=int, default=2000, metavar="N", help="most that report.html holds")
    parser.add_argument("--show-disagreements", action="store_true", help="list answers on which the verdicts differ")


if __name__ == "__main__":
    main()
