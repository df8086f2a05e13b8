"""Checks a recipe before it costs a GPU hour: options, files, tokens, plan, memory, disk. Needs no GPU.

python scripts/preflight.py recipes/STAGE/RUN [--gpus 8 --gpu-memory 80] [--key value ...]

Every other `--key value` is an option of the training, as for the recipe's train.sh. Relative paths, except that of
the recipe, are relative to the repository. Exit code 2 if the job would be wasted.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.runs.cli import Parser, positive_float, positive_int
from redi.runs.errors import UsageError, entry_point
from redi.runs.launch import gpu_memory

REPOSITORY = Path(__file__).resolve().parents[1]


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and the rest, which are the training's."""
    parser = Parser(
        usage="%(prog)s recipes/STAGE/RUN [options] [--key value ...]",
        description=__doc__.split("\n")[0],
        epilog="The command ends with code 2 if the job would be wasted, and names the reasons.",
    )
    add = parser.add_argument
    add("config", type=Path, metavar="RECIPE", help="folder of a recipe, or its config.yaml")
    text = "GPUs of the job, over all machines (default: those of this machine; without any, the CPU)"
    add("--gpus", type=positive_int, metavar="N", help=text)
    text = "memory of each GPU (default: that of this machine's, or 80)"
    add("--gpu-memory", type=positive_float, metavar="GIB", help=text)
    text = "dense bfloat16 peak of a GPU: A100 312 (the default), H100 989"
    add("--peak-tflops", type=positive_float, default=312.0, metavar="TFLOPS", help=text)
    text = "of that peak (default: as in the paper's Table 5)"
    add("--utilisation", type=positive_float, metavar="SHARE", help=text)
    text = "--key value overrides the recipe, such as --learning_rate 2e-6; train.sh --help lists them"
    parser.add_argument_group("options of the training, as for train.sh", text)
    options, overrides = parser.parse_known_args(argv)
    if options.utilisation is not None and options.utilisation > 1:
        raise UsageError(f"--utilisation {options.utilisation:g} is a share of the peak, at most 1")
    return options, overrides


@entry_point
def main(argv: list[str]) -> None:
    options, overrides = parse(argv)
    found = gpu_memory()
    gpus = options.gpus or len(found)
    memory = options.gpu_memory or min(found, default=80.0)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing is computed, and another job may be using the GPUs
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from redi.preflight.check import preflight  # takes seconds to import
    from redi.preflight.recipe import Machine

    config = options.config.resolve()
    os.chdir(REPOSITORY)
    shown = config.relative_to(REPOSITORY) if config.is_relative_to(REPOSITORY) else config
    machine = Machine(gpus, memory, options.peak_tflops, options.utilisation)
    preflight(shown, overrides, machine)


if __name__ == "__main__":
    main()
