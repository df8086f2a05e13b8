"""Protocols: YAML files of options, in the command line's spelling with underscores, that set a command's defaults."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from redi.evaluation.generation.options import add_benchmark_option, add_protocol_options, option_name
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, nearest, usage_errors
from redi.runs.files import CONFIGS

PROTOCOL_FOLDER = CONFIGS / "eval"
AMOUNT = ("benchmark", "n")  # how much is sampled; every other option of a protocol decides what the samples are


def protocol_names() -> list[str]:
    return sorted(path.stem for path in PROTOCOL_FOLDER.glob("*.yaml"))


def protocol_file(name_or_path: str) -> Path:
    """The file of a protocol; refuses one that is neither a known name nor a file."""
    names = protocol_names()
    path = PROTOCOL_FOLDER / f"{name_or_path}.yaml" if name_or_path in names else Path(name_or_path)
    if not path.is_file():
        raise UsageError(
            f"--protocol {name_or_path} is neither a file nor a known name ({', '.join(names)})"
            f"{nearest(name_or_path, names)}"
        )
    return path


def read_protocol(name_or_path: str) -> dict[str, Any]:
    """The options that a protocol sets, each checked as the command line checks it.

    Raises:
        UsageError: there is no such protocol, or it has an unknown key or a bad value.
    """
    path = protocol_file(name_or_path)
    with usage_errors(
        lambda error: f"--protocol {path} is not valid YAML: {error}", yaml.YAMLError, UnicodeDecodeError
    ):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or any(value is None for value in values.values()):
        raise UsageError(f"--protocol {path} must hold `key: value` lines")
    known = list(vars(_parse([])))
    for key in values:
        if key not in known:
            raise UsageError(f"--protocol {path}: unknown key '{key}'{nearest(str(key), known)}; it may set {known}")
    try:
        parsed = _parse([argument for key, value in values.items() for argument in _arguments(key, value)])
    except UsageError as error:
        raise UsageError(f"--protocol {path}: {error}") from error
    return {key: getattr(parsed, key) for key in values}


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """The options that differ from those of `options.protocol`, with their values."""
    wanted = vars(_parse([])) | read_protocol(options.protocol)
    return {name: getattr(options, name) for name, value in wanted.items() if getattr(options, name) != value}


def describe_protocol(options: argparse.Namespace) -> str | None:
    """The protocol's name, and which of the options that it sets were changed; None without a protocol."""
    if options.protocol is None:
        return None
    changed = [name for name in read_protocol(options.protocol) if name in changes(options) and name != "benchmark"]
    return protocol_file(options.protocol).stem + (f" (changed: {', '.join(changed)})" if changed else "")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = StrictParser(add_help=False)
    add_benchmark_option(parser)
    add_protocol_options(parser)
    return parser.parse_args(arguments)


def _arguments(key: str, value: Any) -> list[str]:
    return [option_name(key), *map(str, value)] if isinstance(value, list) else [f"{option_name(key)}={value}"]
