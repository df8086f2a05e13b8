"""Strict options of training: a YAML file, overridden on the command line, into dataclasses."""

import json
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from redi.runs.cli import Parser
from redi.runs.errors import UsageError, nearest, usage_errors
from redi.runs.option_values import check_arguments
from redi.runs.recipe import read_config

# Left out of a run's name: where things are, how it is started and what watches it.
_NOT_IN_NAME = {
    "output_dir",
    "model_name_or_path",
    "dataset_name",
    "eval_dataset_name",
    "check_only",
    "check_memory",
    "tokenize_only",
}
_NOT_IN_NAME |= {"accelerate_config", "report_to", "project", "disable_tqdm", "push_to_hub", "hub_model_id"}
_OF_THE_GPU = {"use_cpu", "tf32"}  # of no interest where nothing is computed


class _Parser(HfArgumentParser):
    # Without this, argparse would print its usage (hundreds of options) before the one line that matters.
    error = Parser.error
    _get_value = Parser._get_value


def parse_options(
    argv: list[str],
    dataclass_types: list[type],
    unread: dict[str, str] | None = None,
    assumed: dict[str, Any] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Reads `--config FILE.yaml` and `--key value` overrides into one instance of each dataclass.

    A YAML value goes through the same conversion as a command-line value, so a value of the wrong type is refused in
    both places. `run_name`, if not given, becomes the recipe's name and what the command line overrides.

    Args:
        argv: the command line, without the program's name.
        dataclass_types: the dataclasses that define the options.
        unread: options of a dataclass that have no effect, with the reason.
        assumed: values of options that are not given; they do not count as given. Those of `use_cpu` and `tf32` also
            replace given ones, but not in the second result.

    Returns:
        The dataclass instances, and the options that were given (in YAML or on the command line) with their values.

    Raises:
        UsageError: an unknown or unread key, a value of the wrong type, a missing file, a secret, an empty path, or a
            combination of options that a dataclass refuses.
    """
    unread = unread or {}
    parser = _Parser(dataclass_types, allow_abbrev=False, add_help=False)
    fields = {action.dest: action for action in parser._actions}
    needed = {key for key, action in fields.items() if action.required} | {"output_dir"}
    from_file, overrides, path = _read_config(argv)
    for key in from_file:
        if key not in fields:
            raise UsageError(f"unknown key '{key}'{nearest(key, list(fields))}")
    given_overrides = [option.split("=")[0] for option in overrides if option.startswith("--")]
    for option in given_overrides:
        if option not in parser._option_string_actions:
            known = [name for name in parser._option_string_actions if "-" not in name[2:]]
            raise UsageError(
                f"unknown option '{option}'{nearest(option.replace('-', '_').replace('__', '--', 1), known)}"
            )
    overridden = [parser._option_string_actions[option].dest for option in given_overrides]
    given = list(from_file) + overridden
    for key in given:
        if key in unread:
            raise UsageError(f"option '{key}' is not read here: {unread[key]}. Remove it.")

    arguments = []
    assumed = assumed or {}
    for key, value in ({key: value for key, value in assumed.items() if key not in given} | from_file).items():
        if value is not None:
            arguments += _as_arguments(key, value)
        else:  # argparse has no spelling for None
            fields[key].default, fields[key].required = None, False
    parsed = vars(parser.parse_args(arguments + overrides))
    without_gpu = {key: parsed[key] for key in _OF_THE_GPU & assumed.keys() & set(given)}
    with usage_errors(str, ValueError, TypeError, ImportError):  # a dataclass refuses its values
        instances = parser.parse_dict(parsed | {key: assumed[key] for key in without_gpu})
    values = {name: value for instance in instances for name, value in vars(instance).items()} | without_gpu
    for key in needed & set(given):
        if (values[key] if key in overridden else from_file[key]) in (None, ""):
            raise UsageError(f"{key} is empty; give it a value")
    for instance in instances:
        if path is not None and getattr(instance, "run_name", "") is None:
            instance.run_name = run_name(path, {key: values[key] for key in overridden})
    return list(instances), {key: values[key] for key in given}


def run_name(config: Path, overrides: dict[str, Any]) -> str:
    """STAGE/RUN of a recipe, and the options that override it: `redi/alpha0.8 alpha=0.5 seed=7`."""
    parts = ["/".join(config.resolve().parent.parts[-2:])]
    return " ".join(parts + [f"{key}={value}" for key, value in overrides.items() if key not in _NOT_IN_NAME])


def _read_config(argv: list[str]) -> tuple[dict[str, Any], list[str], Path | None]:
    """The YAML mapping named by `--config` (empty without one), the rest of the command line, and the file."""
    parser = Parser(add_help=False)
    parser.add_argument("--config", type=Path, action="append", default=[])
    known, rest = parser.parse_known_args(check_arguments(argv))
    if len(known.config) > 1:
        raise UsageError("--config is given twice; name one file")
    return read_config(*known.config) if known.config else {}, rest, *(known.config or [None])


def _as_arguments(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    # With "=", a negative number is not mistaken for an option.
    return [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]
