"""A lock file, so that two runs do not write the same folder at once."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redi.runs.errors import UsageError

CLOCK_SECONDS = 2  # a start time that is read again may differ by the corrections of the clock
_held: set[Path] = set()  # the locks of this process
BEAT_SECONDS, SILENCE_SECONDS = 5.0, 30.0  # how often an owner renews its lock, and how long a dead one is watched


@contextmanager
def folder_lock(folder: str | Path, *, inside: bool = False) -> Iterator[None]:
    """Holds a lock on a folder while the body runs, and removes it afterwards.

    The lock is a file, `.NAME.lock` next to the folder, created exclusively, which works over NFS too. It names its
    owner, which touches it every few seconds. The lock of a dead owner is taken over, see `lock_owner`.

    Args:
        folder: need not exist, unless `inside`; the folder that holds the lock file must.
        inside: the lock is the file `.lock` in the folder, for a folder that stays in place.

    Raises:
        UsageError: the owner is alive, or the file cannot be made.
    """
    import psutil  # not a part of Python: --help works without packages

    file = _lock_file(folder, inside)
    owner = _place() | {"pid": os.getpid(), "started": psutil.Process().create_time()}
    while not _create(file, folder, json.dumps(owner)):
        text = _read(file)
        if other := _owner(file, text):
            raise UsageError(f"{folder} is being written by {other}; wait for it, or stop it. Its lock is {file}")
        _remove(file, text)
    _held.add(file)
    ended = threading.Event()
    threading.Thread(target=_renew, args=(file, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _held.discard(file)
        _remove(file, json.dumps(owner))


def lock_owner(folder: str | Path, *, inside: bool = False) -> str | None:
    """Describes the process that holds the lock of a folder; None if there is none, or it is dead.

    An owner on this host is dead if no process has its number and start time: numbers recur, in a container nearly
    always. One on another host or in another container, or an unreadable lock, is watched, and dead if it does not
    touch its lock for `SILENCE_SECONDS`.
    """
    file = _lock_file(folder, inside)
    return _owner(file, _read(file))


def _place() -> dict[str, str]:
    """Where process numbers mean the same: containers may share the name of their host."""
    namespace = Path("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "namespace": os.readlink(namespace) if namespace.exists() else ""}


def _lock_file(folder: str | Path, inside: bool) -> Path:
    place = Path(folder).resolve()
    return place / ".lock" if inside else place.with_name(f".{place.name}.lock")


def _create(file: Path, folder: str | Path, text: str) -> bool:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    except OSError as error:
        if file.is_file() and not file.stat().st_size:  # created here, on a full disk
            file.unlink()
        raise UsageError(f"{folder} cannot be written: {error}; choose another folder") from error
    return True


def _read(file: Path) -> str | None:
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8")
    return None


def _owner(file: Path, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        owner = json.loads(text)
        who = f"process {owner['pid']} on {owner['host']}, since {time.ctime(owner['started'])}"
        is_here = _place().items() <= owner.items()
    except (ValueError, KeyError, TypeError):  # its owner has not written it yet, or never will
        is_here, who = False, "another process"
    is_alive = _is_running(file, owner["pid"], owner["started"]) if is_here else _is_renewed(file)
    return who if is_alive else None


def _is_running(file: Path, pid: int, started: float) -> bool:
    import psutil

    if pid == os.getpid():
        return file in _held  # a container that starts again at once gives the same number within the same second
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_renewed(file: Path) -> bool:
    """Watches a lock; compares the file only with itself, because the clocks of hosts differ."""
    first, deadline = _renewed_at(file), time.monotonic() + SILENCE_SECONDS
    while first is not None and time.monotonic() < deadline:
        time.sleep(min(1.0, SILENCE_SECONDS / 10))
        if _renewed_at(file) != first:
            return True
    return False


def _renewed_at(file: Path) -> int | None:
    with suppress(FileNotFoundError), file.open("rb") as stream:  # NFS asks its server when a file is opened
        return os.fstat(stream.fileno()).st_mtime_ns
    return None


def _renew(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(file)


def _remove(file: Path, text: str | None) -> None:
    """Removes the lock that holds this text, and no other that has taken its place."""
    aside = file.with_name(f"{file.name}-{os.getpid()}")
    with suppress(FileNotFoundError):
        file.rename(aside)  # otherwise another run took it over
        if aside.read_text(encoding="utf-8") != text:
            os.link(aside, file)
        aside.unlink()
