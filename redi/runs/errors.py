"""User errors: each becomes one line on stderr and exit code 2."""

import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


class UsageError(ValueError):
    """Bad input from the user. The message is one line naming the option, its value and the remedy."""


@contextmanager
def usage_errors(message: Callable[[Exception], str], *kinds: type[Exception]) -> Iterator[None]:
    """Turns a library's errors of these kinds into a `UsageError` with the message that `message` makes of them."""
    try:
        yield
    except kinds as error:
        if isinstance(error, UsageError):  # a ValueError as well, but already a message for the user
            raise
        raise UsageError(message(error)) from error


def entry_point(main: Callable[[list[str]], None]) -> Callable[..., None]:
    """Decorates a command's `main(argv)`: a `UsageError` becomes one line on stderr and exit code 2.

    Under a distributed launcher only rank 0 prints the line. `accelerate launch` ends with 1 whatever its processes
    end with, so the code is also written to the file named by the environment variable REDI_EXIT_CODE_FILE.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> None:
        try:
            main(sys.argv[1:] if argv is None else argv)
        except UsageError as error:
            if os.environ.get("RANK", "0") == "0":
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            _end(2)
        except SystemExit as end:
            _end(end.code)

    return run


def _end(code: Any) -> NoReturn:
    file = os.environ.get("REDI_EXIT_CODE_FILE")
    if file and isinstance(code, int):
        Path(file).write_text(str(code), encoding="utf-8")
    raise SystemExit(code) from None


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name; empty if none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
