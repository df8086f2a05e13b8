"""Output folders and files that are either whole or absent, and the hashes that identify inputs."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from redi.runs.errors import UsageError

# The checkout's configs/, which a symbolic link puts into the package, so that an installed package has it too.
CONFIGS = Path(__file__).parents[1] / "configs"
MANIFEST = "manifest.json"
CARD = "README.md"


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write into and renames it to `path` at the end.

    When the body raises (or is interrupted), the temporary folder is removed and `path` is left as it was.

    Raises:
        UsageError: `path` exists and is not an empty folder, and `overwrite` is false; it cannot be made; or the disk
            is full.
    """
    path = Path(path)
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; choose another folder, or pass --overwrite to replace it")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise UsageError(f"--output {path} cannot be made: {error}; choose another folder") from error
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
    """Writes a file through a temporary name, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def fingerprint(source: str | Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's own files (its subfolders left out).

    Anything that is not a local path is taken for a Hub id and returned as `hub:<id>`. A manifest and a card are left
    out of their folder's hash, since they hold times, and scores that are added later.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name not in (MANIFEST, CARD))
        lines = "".join(f"{file.name} {fingerprint(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    if path.is_file():
        with path.open("rb") as stream:
            return _sha256(stream)
    return f"hub:{source}"


def _sha256(stream: BinaryIO) -> str:  # hashlib.file_digest is new in Python 3.11
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def cpus() -> int:
    """How many processor cores this process may use: a job on a cluster has a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
