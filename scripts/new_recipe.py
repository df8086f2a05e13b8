"""Writes recipes for your model and data that fit this machine, and checks them.

python scripts/new_recipe.py NAME --model MODEL --data data/NAME [--cpu | --gpu-memory 24]

DATA is a dataset of positives (for stage sft) or of pairs or traces (for redi), or a folder with `positives` and
`pairs`: then both stages get a recipe, and REDI starts from what SFT writes. A recipe is a folder recipes/STAGE/NAME,
or, if NAME is a path DIR/NAME, DIR/STAGE/NAME. Its config.yaml is yours to edit.
"""

import argparse
import contextlib
import logging
import os
import re
import shlex
import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.runs.cli import StrictParser, positive_float, positive_int
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import is_hub_id, new_folder
from redi.runs.launch import gpu_memory

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
"""
TRAIN = """exec bash {root}/recipes/launch.sh "$here" "$@"
"""
EVALUATE = """cd {root}
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
exec "$(command -v python || command -v python3)" scripts/evaluate.py run "$here" {options} "$@"
"""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("name", metavar="NAME", help="of the run; or DIR/NAME, for a recipe DIR/STAGE/NAME outside of recipes/")
    add("--model", required=True, metavar="PATH_OR_HUB_ID", help="to start from")
    add("--data", required=True, metavar="PATH_OR_HUB_ID", help="a dataset, or a folder with positives and pairs")
    add("--stage", choices=("sft", "redi"), help="by default what the data is for")
    machine = parser.add_mutually_exclusive_group()
    machine.add_argument("--cpu", action="store_true", help="train on the CPU; the default where there is no GPU")
    memory_help = "memory of each GPU; by default that of this machine's"
    machine.add_argument("--gpu-memory", type=positive_float, metavar="GIB", help=memory_help)
    add("--gpus", type=positive_int, metavar="N", help="by default those of this machine, or 1")
    options = parser.parse_args(argv)
    if options.cpu and options.gpus:
        raise UsageError("--gpus is not for --cpu; remove one of them")
    if not re.fullmatch(r"[\w.+=-]+", Path(options.name).name) or Path(options.name).name.startswith("."):
        raise UsageError(f"NAME '{options.name}' names files: use letters, digits and -_.+= only")
    return options


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import datasets  # these take seconds to import
    import transformers

    from redi.preflight.new_recipe import find_data

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    machine = find_machine(options)
    model, data, top = _place("--model", options.model), _place("--data", options.data), _top(options.name)
    here = Path.cwd()
    with contextlib.chdir(REPOSITORY), contextlib.ExitStack() as stack:  # both recipes, or none
        datasets_of = find_data(data, options.stage)
        folders = {stage: top / stage / Path(options.name).name for stage in datasets_of}
        names = {stage: os.path.relpath(folder, here) for stage, folder in folders.items()}
        for stage, folder in folders.items():
            if folder.exists():
                raise UsageError(f"the recipe {names[stage]} exists; choose another NAME, or remove it")
        start = model
        for stage, folder in folders.items():
            output = f"runs/{stage}/{folder.name}" if _is_ours(folder) else str(folder / "run")
            places = {"model_name_or_path": start, "dataset_name": datasets_of[stage], "output_dir": output}
            root = '"$here/../../.."' if _is_ours(folder) else shlex.quote(str(REPOSITORY))
            temporary = stack.enter_context(new_folder(folder))
            write_recipe(temporary, names[stage], root, places, machine, model)
            start = output
    print("\nWrote", *names.values())
    print("Train with", *(f"bash {shlex.quote(name)}/train.sh" for name in names.values()), sep="\n  ")


def find_machine(options: argparse.Namespace):
    """The GPUs that were asked for, or those of this machine; without any, the CPU."""
    from redi.preflight.recipe import Machine

    found = [] if options.cpu else gpu_memory()
    gpus = 0 if options.cpu else options.gpus or len(found) or int(options.gpu_memory is not None)
    if gpus and not (options.gpu_memory or found):
        raise UsageError(f"--gpus {gpus}: no GPU was found; give --gpu-memory too, for another machine")
    if gpus == 0:
        print("The recipe is for the CPU" + ("" if options.cpu else ": no GPU was found") + ".")
    return Machine(gpus, options.gpu_memory or round(min(found, default=0.0), 1))


def write_recipe(folder: Path, name: str, root: str, places: dict[str, str], machine, start: str) -> None:
    """Writes the files of a recipe, and prints what preflight finds; `name` is what the folder will be called."""
    from redi.preflight.check import preflight
    from redi.preflight.new_recipe import write_config

    overrides = write_config(folder / "config.yaml", places, machine, start)
    options = "--protocol quick --prompt bare" + ("" if machine.gpus else " --backend transformers")
    for file, text in (("train.sh", TRAIN), ("eval.sh", EVALUATE)):
        (folder / file).write_text((SCRIPT + text).format(root=root, options=options), encoding="utf-8")
    preflight(folder / "config.yaml", overrides, machine, lambda line: print(line.replace(str(folder), name)))


def _is_ours(folder: Path) -> bool:
    return folder.parents[1] == REPOSITORY / "recipes"


def _place(option: str, path: str) -> str:
    """A path as a recipe has it, relative to the repository or absolute; a Hub id as it is."""
    for candidate in (Path(path).expanduser(), REPOSITORY / path):
        if candidate.exists():
            place = Path(os.path.abspath(candidate))
            return str(place.relative_to(REPOSITORY) if place.is_relative_to(REPOSITORY) else place)
    if not is_hub_id(path):
        raise UsageError(f"{option} {path} does not exist, and is not a Hub id (owner/name)")
    return path


def _top(name: str) -> Path:
    """The folder that gets STAGE/NAME."""
    if "/" not in name.rstrip("/"):
        return REPOSITORY / "recipes"
    parent = Path(os.path.abspath(Path(name).expanduser())).parent
    return parent.parent if parent.name in ("sft", "redi") else parent


if __name__ == "__main__":
    main()
