"""Plots the training dynamics of runs by step: LogPS of both sides (SFT: loss), held out as well, and a norm.

python scripts/plot_training.py RUN [RUN ...] --output FILE.png
"""

from pathlib import Path

from redi.evaluation.reporting.scores import name_folders
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a run; NAME=DIR sets its label")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(argv)
    from redi.evaluation.reporting.training_dynamics import plot_dynamics  # imports matplotlib

    plot_dynamics(name_folders(options.runs, "RUN"), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
