"""Checks a recipe before it costs a GPU hour: options, files, tokens, plan, memory, disk. Needs no GPU.

python scripts/preflight.py recipes/STAGE/RUN/config.yaml [--gpus 8 --gpu-memory 80] [--key value ...]

Every `--key value` that is not an option of its own goes to the recipe's training script. Exit code 2 where the job
would be wasted. Relative paths, but that of the recipe, are relative to the repository, as for the recipe's train.sh.
"""

import argparse
import logging
import os
import warnings
from pathlib import Path

from redi.runs.errors import UsageError, entry_point

REPOSITORY = Path(__file__).parents[1]


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and the rest, for the training script."""
    parser = Parser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("config", type=Path, nargs="?", help="config.yaml of a recipe")
    add("--gpus", type=count, default=8, help="processes of the job, over all machines")
    add("--gpu-memory", type=positive, default=80.0, help="GiB of each")
    add("--peak-tflops", type=positive, default=312.0, help="dense bfloat16 peak of a GPU: A100 312, H100 989")
    add("--utilisation", type=positive, help="share of the peak; by default what the paper's Table 5 implies")
    add("--table5", action="store_true", help="print the utilisation that each row of Table 5 implies, and stop")
    options, overrides = parser.parse_known_args(argv)
    if options.config is None and not options.table5:
        raise UsageError("name the config.yaml of a recipe")
    if options.utilisation is not None and options.utilisation > 1:
        raise UsageError(f"--utilisation {options.utilisation:g} is a share of the peak, at most 1")
    return options, overrides


@entry_point
def main(argv: list[str]) -> None:
    options, overrides = parse(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing is computed, and the GPUs may be another job's
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import datasets  # these take seconds to import
    import transformers

    from redi.preflight.check import Machine, preflight
    from redi.preflight.plan import table_5

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if options.table5:
        print("\n".join(table_5()))
        return
    config = options.config.resolve()
    os.chdir(REPOSITORY)
    machine = Machine(options.gpus, options.gpu_memory, options.peak_tflops, options.utilisation)
    shown = config.relative_to(REPOSITORY.resolve()) if config.is_relative_to(REPOSITORY.resolve()) else config
    preflight(shown, overrides, machine)


if __name__ == "__main__":
    main()
