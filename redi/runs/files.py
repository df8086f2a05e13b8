"""Paths and Hub ids; outputs that are either complete or absent; the hashes that identify inputs."""

import errno
import hashlib
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redi.runs.errors import UsageError, usage_errors
from redi.runs.lock import folder_lock

# A symbolic link to the checkout's configs/, so that an installed package holds the files too.
CONFIGS = Path(__file__).parents[1] / "configs"
MANIFEST = "manifest.json"
STARTED = "started.json"  # of a run that is not finished: its options and inputs
CARD = "README.md"
MOUNTS = Path("/proc/self/mountinfo")
OUTPUT_FOLDERS = ("data", "models", "runs")


def check_output(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Checks that a folder can be written, or replaced with all that it holds.

    Args:
        path: of the folder; a symbolic link stands for the folder that it leads to.
        inputs: must not lie in the folder. A `Path` need not exist yet; a `str` that does not exist is a Hub id.

    Raises:
        UsageError: it is a file, a mount point or the working folder, or holds that folder or an input.
    """
    place = path.resolve()
    if Path.cwd().is_relative_to(place):
        raise UsageError(f"--output {path} is the working folder or holds it; name a new folder")
    if place.exists() and not place.is_dir():
        raise UsageError(f"--output {path} is a file; name a folder")
    if _is_mount(place):
        raise UsageError(f"--output {path} is a mount point, which cannot be replaced; name a folder inside it")
    for source in inputs:
        known = isinstance(source, Path) or Path(source).exists()
        if known and Path(source).resolve().is_relative_to(place):
            raise UsageError(f"--output {path} holds the input {source} and would replace it; choose another folder")


def _is_mount(place: Path) -> bool:
    """Whether a file system is mounted there; `os.path.ismount` misses a folder of the same disk (a bind mount)."""
    mounts = MOUNTS.read_text(encoding="utf-8").splitlines() if MOUNTS.is_file() else []
    return os.path.ismount(place) or str(place).replace(" ", "\\040") in (line.split(" ")[4] for line in mounts)


@contextmanager
def new_folder(path: Path, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yields a temporary folder next to `path` to write into, and puts it in the place of `path` at the end.

    If the body raises, or is interrupted by SIGINT, SIGTERM or SIGHUP, the temporary folder is removed and `path`
    stays as it was. An old folder is moved aside first, and removed once the new one is in its place.

    Raises:
        UsageError: as `check_output`; `path` is not empty and `overwrite` is false; another process is writing it;
            the folder cannot be created or replaced; or the disk is full.
    """
    path = Path(path)
    check_output(path, inputs)
    place = path.resolve()
    temporary, aside = place.with_name(f".{place.name}.tmp"), place.with_name(f".{place.name}.old")
    with usage_errors(lambda error: f"--output {path} cannot be made: {error}; choose another folder", OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
    with signals_raise(), folder_lock(path):
        if aside.exists() and not place.exists():  # left by a process that was killed between two renames
            aside.rename(place)
        if not overwrite and place.is_dir() and any(place.iterdir()):
            raise UsageError(f"--output {path} exists; choose another folder, or pass --overwrite to replace it")
        for leftover in (temporary, aside):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            temporary.mkdir()
            yield temporary
            _replace(place, temporary, aside)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            what = os.strerror(error.errno).lower()
            raise UsageError(f"--output {path}: {what}; make room, or choose a folder on another disk") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(place: Path, temporary: Path, aside: Path) -> None:
    try:
        if place.exists():
            place.rename(aside)
        temporary.rename(place)
    except OSError as error:
        if aside.exists() and not place.exists():
            aside.rename(place)
        kept = temporary.rename(place.with_name(f"{place.name}.new-{os.getpid()}"))
        raise UsageError(f"--output {place} cannot be replaced: {error}; the result is in {kept}") from error
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `SystemExit`, so that what was begun is removed or ended; in the main thread only."""

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the removal
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if in_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


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


def is_hub_id(name: str) -> bool:
    """Whether a name may be a Hub id: `owner/name`, or `owner/name@REVISION`.

    A path that exists is not, nor is a data file, nor a folder that the recipes are yet to make, such as `data/pairs`:
    a stranger may own that name on the Hub.
    """
    match = re.fullmatch(r"([\w.-]+)/[\w.-]+(@.+)?", name)
    if match is None or name.endswith((".parquet", ".jsonl")) or Path(name).exists():
        return False
    return match[1] not in OUTPUT_FOLDERS and not Path(match[1]).exists()


def reach_hub(name: str, option: str, kind: str = "model") -> None:
    """Looks once for a connection to the Hub. Without one, its libraries, which would try for a minute, use the cache.

    Args:
        name: a Hub id, `option` how the message names it, `kind` model or dataset.

    Raises:
        UsageError: there is no connection, and the Hub's cache does not hold it.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError

    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=5)
            return
        except (HfHubHTTPError.__bases__[0], OSError) as error:  # from one of several HTTP libraries
            why = f"the Hub cannot be reached: {error}"
        constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    name = name.split("@")[0]
    places = [Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")]
    if kind == "dataset" and "datasets" in sys.modules:
        places.append(Path(sys.modules["datasets"].config.HF_DATASETS_CACHE, name.replace("/", "___")))
    if not any(place.is_dir() for place in places):
        raise UsageError(
            f"{option} is not a folder here, and not in the cache of the Hub ({why}): get it with `hf download` on a "
            "machine with a connection, or name a folder"
        )
