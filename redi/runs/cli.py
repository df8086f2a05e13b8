"""Strict command-line options: no abbreviations, and an unknown option names the nearest known one."""

import argparse
import math
import sys
from typing import Any, NoReturn

from redi.runs.errors import UsageError, nearest
from redi.runs.option_values import check_arguments


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help texts with their defaults, if they have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False and action.default != []
        return super()._get_help_string(action) if has_default else action.help


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` without prefix matching whose errors are `UsageError`s."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _get_value(self, action, arg_string):
        """Converts a value; nan and infinity, which float() reads, are no value of any option."""
        value = argparse.ArgumentParser._get_value(self, action, arg_string)
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentError(action, f"{arg_string} is not a finite number")
        return value


class StrictParser(Parser):
    """A `Parser` that checks values, shows defaults in its help and suggests the nearest option for an unknown one."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=_Help, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """Reports a misspelt option before argparse can report that the required one it stands for is missing."""
        args = check_arguments(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # otherwise the parser of the command knows them
            for option in (arg.split("=")[0] for arg in args):
                if option.startswith("--") and option != "--" and option not in self._option_string_actions:
                    self.error(f"unknown option '{option}'{nearest(option, list(self._option_string_actions))}")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown option '{unknown[0]}'{nearest(unknown[0], list(self._option_string_actions))}")
        return parsed


def positive_int(text: str) -> int:
    """For `type=` of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_float(text: str) -> float:
    """For `type=` of an option."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def has_option(argv: list[str], *names: str) -> bool:
    """Whether a command line has one of these options, however it is spelled (`--max-steps=1`, `--max_steps 1`)."""
    given = {option[2:].split("=")[0].replace("-", "_") for option in argv if option.startswith("--")}
    return not given.isdisjoint(names)
