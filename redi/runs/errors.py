"""User errors, and disks that are full: each becomes one line on stderr and exit code 2."""

import difflib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

_LAUNCHER = re.compile(r"(RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT))$|PMI|MPI_|OMPI_|MV2_")
# How safetensors (which puts the error's number in its text) and torch.save (which leaves it out) report a full disk.
_UNWRITTEN = re.compile(r"\(os error (\d+)\)|PytorchStreamWriter failed writing|inline_container.* unexpected pos")


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
    """Decorates a command's `main(argv)`: a `UsageError`, or a full disk, becomes one line on stderr and exit code 2.

    Under a distributed launcher only rank 0 prints the line of a `UsageError`, which all ranks raise. `accelerate
    launch` ends with 1 whatever its processes end with, so the code is also written to the file named by the
    environment variable REDI_EXIT_CODE_FILE.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> None:
        _forget_launcher()
        try:
            main(sys.argv[1:] if argv is None else argv)
        except UsageError as error:
            if os.environ.get("RANK", "0") == "0":
                _print(str(error))
            _end(2)
        except _writing_errors() as error:
            problem = full_disk(error)
            if problem is None:
                raise
            _print(problem)
            _end(2)
        except SystemExit as end:
            _end(end.code)

    return run


def _writing_errors() -> tuple[type[BaseException], ...]:
    safetensors = sys.modules.get("safetensors")  # not imported here: --help works without packages
    return (OSError, RuntimeError, *([safetensors.SafetensorError] if safetensors else []))


def _forget_launcher() -> None:
    """Removes what Kubernetes and MPI set for one process per GPU, unless a launcher has started this process.

    A process that is alone would wait for the others, and not print its errors.
    """
    if "LOCAL_RANK" not in os.environ:
        for name in [name for name in os.environ if _LAUNCHER.match(name)]:
            del os.environ[name]


def full_disk(error: BaseException | None) -> str | None:
    """How a file could not be written because a disk is full, over quota or read-only; None for any other error."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number is None and (match := _UNWRITTEN.search(str(error))):
            number = int(match[1] or errno.ENOSPC)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            where = f" ({error.filename})" if getattr(error, "filename", None) else ""
            return f"{os.strerror(number)}{where}: make room or use another disk, and run the same command again"
        error = error.__cause__ or error.__context__
    return None


def _print(line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)


def _end(code: Any) -> NoReturn:
    file = os.environ.get("REDI_EXIT_CODE_FILE")
    if file and isinstance(code, int):
        Path(file).write_text(str(code), encoding="utf-8")
    raise SystemExit(code) from None


def nearest(name: str, known: list[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name; empty if none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
