"""The command line of `evaluate.py`."""

import argparse
from pathlib import Path

from redi.evaluation.benchmarks import DEFAULT_FOLDER, KNOWN, SECOND_GOLDS, downloadable
from redi.evaluation.generation import options as generation
from redi.evaluation.run import find_models, usual_protocol
from redi.runs.cli import StrictParser, positive_int

_FOLDER = {"type": Path, "default": DEFAULT_FOLDER, "metavar": "DIR", "help": "of benchmarks given by name"}
_WHOLE = "for models that do not think aloud: also grade responses without </think>, by their last box"


def parse(argv: list[str], description: str) -> argparse.Namespace:
    """The options of a command. Those that its protocol sets are defaults, which the command line overrides."""
    parser = StrictParser(description=description)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    for add_options in (_run, _download, _generate, _grade, _report):
        name, help_text = add_options.__name__.removeprefix("_"), add_options.__doc__
        add_options(commands.add_parser(name, help=help_text, description=help_text))
    options = parser.parse_args(argv)
    defaults = {"protocol": getattr(options, "protocol", None)}
    if options.command == "run":
        models, every = find_models(options.model, options.output_dir), options.every_checkpoint or options.watch
        defaults = {"protocol": options.protocol or usual_protocol(models[0], every)}
        defaults |= {"models": models, "every_checkpoint": every}
    if defaults["protocol"]:
        defaults |= generation.read_protocol(defaults["protocol"])
    commands.choices[options.command].set_defaults(**defaults)
    return parser.parse_args(argv)


def _run(parser: StrictParser) -> None:
    """sample, grade and report a model, the checkpoints of a run, or what a recipe trained"""
    parser.usage = "%(prog)s MODEL_OR_RECIPE [--option value ...]"
    add = parser.add_argument
    target = "model folder, checkpoint, Hub id, or a recipe folder, which means the run or the sweep that it trained"
    add("model", metavar="MODEL_OR_RECIPE", help=target)
    add("--output_dir", metavar="DIR", help="where the recipe was trained, if not where it says")
    output = "gets evaluation/ and report/; by default the folder that the run lies in, or runs/ for any other model"
    add("--output", type=Path, metavar="DIR", help=output)
    add("--every-checkpoint", action="store_true", help="evaluate each checkpoint-N of the run")
    watch = "--every-checkpoint, waiting for new ones until the run is finished"
    add("--watch", action="store_true", help=watch)
    add("--where", action="store_true", help="only print the folder of the answers")
    _add_sampling(parser)
    parser.add_argument("--whole-responses", action="store_true", help=_WHOLE)


def _generate(parser: StrictParser) -> None:
    """sample n answers to every problem"""
    parser.add_argument("--model", required=True, metavar="PATH", help="folder or Hub id; needs a chat template")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new, or an earlier run's to add to")
    _add_sampling(parser)


def _add_sampling(parser: StrictParser) -> None:
    names = ", ".join(generation.protocol_names())
    protocol_help = f"a file of options, or a name: {names}; its options replace the defaults below, "
    protocol_help += "and the command line overrides both"
    parser.add_argument("--protocol", metavar="NAME_OR_YAML", help=protocol_help)
    _add_benchmarks(parser)
    limit_help = "only the first N problems of each benchmark; a run without --limit adds the others"
    parser.add_argument("--limit", type=positive_int, metavar="N", help=limit_help)
    generation.add_sampling_options(parser)


def _add_benchmarks(parser: StrictParser) -> None:
    generation.add_benchmark_option(parser)
    parser.add_argument("--benchmark-folder", **_FOLDER)


def _download(parser: StrictParser) -> None:
    """fetch benchmarks from the Hub"""
    help_text = f"of {', '.join(downloadable())}; those named _hub differ from the paper's"
    default = [name for name in downloadable() if name in KNOWN]
    parser.add_argument("--benchmark", nargs="+", default=default, metavar="NAME", help=help_text)
    parser.add_argument("--benchmark-folder", **_FOLDER)


def _grade(parser: StrictParser) -> None:
    """grade generations.jsonl into graded.jsonl"""
    parser.add_argument("--input", required=True, type=Path, metavar="DIR", help="an output of generate")
    _add_benchmarks(parser)
    second_help = "grade by these reference answers too, in separate rows that no average counts"
    parser.add_argument("--second-golds", nargs="+", default=[], choices=sorted(SECOND_GOLDS), help=second_help)
    parser.add_argument("--whole-responses", action="store_true", help=_WHOLE)
    parser.add_argument("--workers", type=positive_int, metavar="N", help="worker processes; by default one per core")


def _report(parser: StrictParser) -> None:
    """tables, a page and a plot of graded folders"""
    add, inputs = parser.add_argument, "graded folders, one row each; NAME=DIR names the row"
    add("--input", required=True, nargs="+", metavar="DIR", help=inputs)
    add("--output", required=True, type=Path, metavar="DIR", help="gets the tables, report.html and a plot")
    baseline_help = "rows that the others are compared with; by default the first"
    add("--baseline", nargs="+", default=[], metavar="DIR_OR_NAME", help=baseline_help)
    add("--model-card", type=Path, metavar="DIR", help="model whose README.md gets the table as its scores")
    add("--max-responses", type=positive_int, default=2000, metavar="N", help="most responses in report.html")
    add("--show-disagreements", action="store_true", help="list the answers on which the verdicts differ")
