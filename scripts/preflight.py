"""Checks a recipe before it costs a GPU hour: options, files, tokens, plan, memory, disk. Needs no GPU.

python scripts/preflight.py recipes/STAGE/RUN/config.yaml [--gpus 8 --gpu-memory 80] [--key value ...]

Every other `--key value` is an option of the training, as for the recipe's train.sh. Relative paths, except that of
the recipe, are relative to the repository. Exit code 2 if the job would be wasted.
"""

import argparse
import logging
import os
import warnings
from pathlib import Path

from redi.runs.cli import Parser, positive_float, positive_int
from redi.runs.errors import UsageError, entry_point

REPOSITORY = Path(__file__).resolve().parents[1]


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and the rest, which are the training's."""
    parser = Parser(
        usage="%(prog)s recipes/STAGE/RUN/config.yaml [options] [--key value ...]",
        description=__doc__.split("\n")[0],
        epilog="Every other --key value is an option of the training, as for the recipe's train.sh.",
    )
    add = parser.add_argument
    add("config", type=Path, help="config.yaml of a recipe")
    add("--gpus", type=positive_int, default=8, help="GPUs of the job, over all machines (default: 8)")
    add("--gpu-memory", type=positive_float, default=80.0, metavar="GIB", help="memory of each GPU (default: 80)")
    text = "dense bfloat16 peak of a GPU: A100 312 (the default), H100 989"
    add("--peak-tflops", type=positive_float, default=312.0, metavar="TFLOPS", help=text)
    text = "of that peak (default: as in the paper's Table 5)"
    add("--utilisation", type=positive_float, metavar="SHARE", help=text)
    options, overrides = parser.parse_known_args(argv)
    if options.utilisation is not None and options.utilisation > 1:
        raise UsageError(f"--utilisation {options.utilisation:g} is a share of the peak, at most 1")
    return options, overrides


@entry_point
def main(argv: list[str]) -> None:
    options, overrides = parse(argv)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing is computed, and another job may be using the GPUs
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import datasets  # these take seconds to import
    import transformers

    from redi.preflight.check import preflight
    from redi.preflight.recipe import Machine

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    config = options.config.resolve()
    os.chdir(REPOSITORY)
    shown = config.relative_to(REPOSITORY) if config.is_relative_to(REPOSITORY) else config
    machine = Machine(options.gpus, options.gpu_memory, options.peak_tflops, options.utilisation)
    preflight(shown, overrides, machine)


if __name__ == "__main__":
    main()
