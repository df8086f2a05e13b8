"""Output folders and files that are either complete or absent, and the hashes that identify inputs."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redi.runs.errors import UsageError, usage_errors

# A symbolic link to the checkout's configs/, so that an installed package holds the files too.
CONFIGS = Path(__file__).parents[1] / "configs"
MANIFEST = "manifest.json"
CARD = "README.md"


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder next to `path` to write into, and renames it to `path` at the end.

    If the body raises or is interrupted, the temporary folder is removed and `path` stays as it was.

    Raises:
        UsageError: `path` exists, is not an empty folder, and `overwrite` is false; the folder cannot be created; or
            the disk is full.
    """
    path = Path(path)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; choose another folder, or pass --overwrite to replace it")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with usage_errors(lambda error: f"--output {path} cannot be made: {error}; choose another folder", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = os.strerror(error.errno).lower()
        raise UsageError(f"--output {path}: {what}; make room, or choose a folder on another disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it: a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def fingerprint(source: str | Path) -> str:
    """SHA-256 of a file, or of the names and hashes of the files directly in a folder.

    Anything that is not a local path is treated as a Hub id and returned as `hub:<id>`. A folder's manifest and card
    are not hashed: they hold times, and scores that are added later.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name not in (MANIFEST, CARD))
        lines = "".join(f"{file.name} {fingerprint(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return f"hub:{source}"


def cpus() -> int:
    """How many processor cores this process may use: on a cluster a job may get a part of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
