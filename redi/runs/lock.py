"""A lock file, so that two runs do not write the same folder at once."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from redi.runs.errors import UsageError

CLOCK_SECONDS = 2  # a start time that is read again may differ by the corrections of the clock


@contextmanager
def folder_lock(folder: str | Path, *, inside: bool = False) -> Iterator[None]:
    """Holds a lock on a folder while the body runs, and removes it afterwards.

    The lock is a file, `.NAME.lock` next to the folder, created exclusively, which works over NFS too. It names its
    owner: host, process and the time when the process started, since process numbers recur, in a container nearly
    always. A lock whose owner ran on this host and is dead is taken over.

    Args:
        folder: need not exist, unless `inside`; the folder that holds the lock file must.
        inside: the lock is the file `.lock` in the folder, for a folder that stays in place.

    Raises:
        UsageError: the owner is alive, or on another host, where that cannot be known; or the file cannot be made.
    """
    place = Path(folder).resolve()
    file = place / ".lock" if inside else place.with_name(f".{place.name}.lock")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    _acquire(file, Path(folder), owner)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _acquire(file: Path, folder: Path, owner: dict[str, Any]) -> None:
    while True:
        try:
            with file.open("x", encoding="utf-8") as stream:
                json.dump(owner, stream)
            return
        except FileExistsError:
            _remove_if_dead(file, folder, owner["host"])
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}; choose another folder") from error


def _remove_if_dead(file: Path, folder: Path, host: str) -> None:
    try:
        text = file.read_text(encoding="utf-8")
        owner = json.loads(text)
        who = f"process {owner['pid']} on {owner['host']}, since {time.ctime(owner['started'])}"
    except FileNotFoundError:
        return  # released meanwhile
    except (ValueError, KeyError, TypeError):  # its owner has not written it yet, or never will
        raise UsageError(f"{folder} is locked by another run; if there is none, delete {file}") from None
    if owner["host"] != host or _is_alive(owner):
        raise UsageError(f"{folder} is being written by {who}; wait for it or, if it is dead, delete {file}")
    aside = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        file.rename(aside)
    except FileNotFoundError:
        return  # another run took it over
    if aside.read_text(encoding="utf-8") != text:  # and this is that run's lock
        os.link(aside, file)
    aside.unlink()


def _is_alive(owner: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["started"]) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
