"""Compares results with the paper's: Tables 1 to 4, and the figures of the training dynamics.

python scripts/reproduce.py table1 --runs sft-5ep=runs/sft/evaluation/MODEL redi=runs/redi/evaluation/MODEL
python scripts/reproduce.py training-dynamics --runs runs/redi/MODEL --output DIR
"""

import argparse
from pathlib import Path

from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point

TABLES = ("table1", "table2", "table3", "table4")


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.command == "training-dynamics":
        from redi.evaluation.reporting.training_dynamics import reproduce_dynamics

        reproduce_dynamics(options.runs, options.output, options.benchmark, options.suffix)
    else:
        from redi.evaluation.reporting.reproduce import reproduce_table

        print(reproduce_table(options.command, options.runs, options.grader == "rllm-style", options.output))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    for name in TABLES:
        add = commands.add_parser(name, help=f"the paper's {name[:-1]} {name[-1]}, cell by cell").add_argument
        runs = "graded folders; other rows are 'not run'"
        add("--runs", nargs="*", default=[], metavar="ROW=DIR", help=runs)
        add("--grader", choices=("rllm-style", "ours"), default="rllm-style", help="verdicts to use")
        add("--output", type=Path, metavar="DIR", help="gets the table as .md and .json")
    add = commands.add_parser("training-dynamics", help="accuracy, LogPS and norms against the step").add_argument
    add("--runs", required=True, nargs="+", type=Path, metavar="RUN", help="output_dir of a run")
    add("--benchmark", default="math500", help="benchmark for the accuracy of checkpoints")
    suffix = "of NAME_checkpoint-N_TEXT, if they were evaluated with several protocols"
    add("--suffix", metavar="TEXT", help=suffix)
    add("--output", required=True, type=Path, metavar="DIR", help="gets the figures and their numbers")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
