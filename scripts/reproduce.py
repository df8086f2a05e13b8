"""Our figures beside the paper's: Tables 1 to 4, and the figures of the training dynamics.

python scripts/reproduce.py table1 --runs sft-5ep=runs/sft/evaluation/MODEL redi=runs/redi/evaluation/MODEL
python scripts/reproduce.py training-dynamics --runs runs/redi/MODEL --output DIR
"""

import argparse
import json
from pathlib import Path

from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text

TABLES = ("table1", "table2", "table3", "table4")


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    if options.command == "training-dynamics":
        from redi.evaluation.reporting.training_dynamics import reproduce_dynamics

        reproduce_dynamics(options.runs, options.output, options.benchmark)
        return
    from redi.evaluation.reporting.reproduce import as_markdown, compare, match_runs, read_paper

    paper = read_paper()
    entries = match_runs(paper, options.command, options.runs)
    result = compare(paper, options.command, entries, options.grader == "rllm-style")
    text = as_markdown(result)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(options.output / f"{options.command}.md", text)
        write_text(options.output / f"{options.command}.json", json.dumps(result, indent=2) + "\n")
    print(text)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    for name in TABLES:
        table = commands.add_parser(name, help=f"the paper's {name[:-1]} {name[-1]}, cell by cell")
        table.add_argument(
            "--runs", nargs="*", default=[], metavar="ROW=DIR", help="graded folders; rows without one are 'not run'"
        )
        table.add_argument("--grader", choices=("rllm-style", "ours"), default="rllm-style", help="whose verdicts")
        table.add_argument("--output", type=Path, metavar="DIR", help="gets the table as .md and .json")
    dynamics = commands.add_parser("training-dynamics", help="accuracy, LogPS and norms against the step")
    dynamics.add_argument("--runs", required=True, nargs="+", type=Path, metavar="RUN", help="output_dir of trainings")
    dynamics.add_argument("--benchmark", default="math500", help="whose accuracy the checkpoints are followed by")
    dynamics.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the figures and their numbers"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
