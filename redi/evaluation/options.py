"""The command line of `evaluate.py`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from redi.evaluation.benchmarks import DEFAULT_FOLDER, SECOND_GOLDS
from redi.evaluation.generation.options import add_benchmark_option, add_engine_options, add_protocol_options
from redi.evaluation.generation.protocols import protocol_names, read_protocol
from redi.evaluation.run import find_models, usual_protocol
from redi.runs.cli import StrictParser, positive_int


def parse(argv: list[str], description: str) -> argparse.Namespace:
    """The options of a command. Those that its protocol sets are defaults, which the command line overrides.

    Raises:
        UsageError: an unknown option, a bad value, or a protocol that does not exist.
    """
    parser = StrictParser(description=description)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    for name, (help_text, add_options) in COMMANDS.items():
        add_options(commands.add_parser(name, help=help_text, description=help_text))
    options = parser.parse_args(argv)
    protocol = getattr(options, "protocol", None)
    if options.command == "run":
        every_checkpoint = options.every_checkpoint or options.watch
        models = find_models(options.model, options.output_dir)
        usual = usual_protocol(models[0], every_checkpoint)
        protocol = protocol or usual
        commands.choices["run"].set_defaults(
            models=models, every_checkpoint=every_checkpoint, usual_protocol=usual, protocol=protocol
        )
    if protocol is not None:
        commands.choices[options.command].set_defaults(**read_protocol(protocol))
    return parser.parse_args(argv)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL_OR_RECIPE",
        help="model folder, checkpoint, Hub id, or a recipe folder, which means the run or the sweep that it trained",
    )
    parser.add_argument("--output_dir", metavar="DIR", help="where the recipe was trained, if not where it says")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="gets evaluation/ and report/; by default the folder that the run lies in, or runs/ for any other model",
    )
    parser.add_argument("--every-checkpoint", action="store_true", help="evaluate each checkpoint-N of the run")
    parser.add_argument(
        "--watch", action="store_true", help="--every-checkpoint, waiting for new ones until the run is finished"
    )
    parser.add_argument("--where", action="store_true", help="only print the folder of the answers")
    _add_sampling(parser)
    _add_whole_responses(parser)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="PATH", help="folder or Hub id; needs a chat template")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new, or an earlier run's to add to")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(protocol_names())
    parser.add_argument(
        "--protocol",
        metavar="NAME_OR_YAML",
        help=f"a file of options, or a name: {names}; its options replace the defaults below, "
        "and the command line overrides both",
    )
    add_benchmark_option(parser)
    _add_benchmark_folder(parser)
    limit_help = "only the first N problems of each benchmark; a run without --limit adds the others"
    parser.add_argument("--limit", type=positive_int, metavar="N", help=limit_help)
    add_protocol_options(parser)
    add_engine_options(parser)


def _add_benchmark_folder(parser: argparse.ArgumentParser) -> None:
    help_text = "of benchmarks given by name"
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help=help_text)


def _add_whole_responses(parser: argparse.ArgumentParser) -> None:
    help_text = "for models that do not think aloud: also grade responses without </think>, by their last box"
    parser.add_argument("--whole-responses", action="store_true", help=help_text)


def _add_download(parser: argparse.ArgumentParser) -> None:
    help_text = "math500, aime24, amc23, or minerva_hub, olympiadbench_hub, which differ from the paper's"
    default = ["math500", "aime24", "amc23"]
    parser.add_argument("--benchmark", nargs="+", default=default, metavar="NAME", help=help_text)
    _add_benchmark_folder(parser)


def _add_grade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="an output of generate")
    add_benchmark_option(parser)
    _add_benchmark_folder(parser)
    parser.add_argument(
        "--second-golds",
        nargs="+",
        default=[],
        choices=sorted(SECOND_GOLDS),
        help="grade by these reference answers too, in separate rows that no average counts",
    )
    _add_whole_responses(parser)
    parser.add_argument("--workers", type=positive_int, metavar="N", help="worker processes; by default one per core")


def _add_report(parser: argparse.ArgumentParser) -> None:
    input_help = "graded folders, one row each; NAME=DIR names the row"
    parser.add_argument("--input", required=True, nargs="+", metavar="DIR", help=input_help)
    output_help = "gets the tables, report.html and a plot"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=output_help)
    baseline_help = "rows that the others are compared with; by default the first"
    parser.add_argument("--baseline", nargs="+", default=[], metavar="DIR_OR_NAME", help=baseline_help)
    card_help = "model whose README.md gets the table as its scores"
    parser.add_argument("--model-card", type=Path, metavar="DIR", help=card_help)
    max_help = "most responses in report.html"
    parser.add_argument("--max-responses", type=positive_int, default=2000, metavar="N", help=max_help)
    differ_help = "list the answers on which the verdicts differ"
    parser.add_argument("--show-disagreements", action="store_true", help=differ_help)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("sample, grade and report a model, the checkpoints of a run, or what a recipe trained", _add_run),
    "download": ("fetch benchmarks from the Hub", _add_download),
    "generate": ("sample n answers to every problem", _add_generate),
    "grade": ("grade generations.jsonl into graded.jsonl", _add_grade),
    "report": ("tables, a page and a plot of graded folders", _add_report),
}
