"""What every entry point shares: user errors, strict options, output folders and their manifests.

Nothing here imports torch, so that a mistyped option is refused in a fraction of a second.
"""

import argparse
import difflib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MANIFEST = "manifest.json"
CARD = "README.md"
PACKAGES = ["redi", "torch", "transformers", "trl", "accelerate", "datasets", "deepspeed", "vllm", "math-verify"]


class UsageError(ValueError):
    """Bad input from the user. The message is one line naming the option, its value and the remedy."""


def entry_point(main: Callable[[list[str]], None]) -> Callable[..., None]:
    """Decorates a command's `main(argv)`: a `UsageError` becomes one line on stderr and exit code 2.

    Under a distributed launcher only rank 0 prints the line. Since `accelerate launch` ends with 1 whatever the code
    of its processes is, the code is also written to the file that the environment variable REDI_EXIT_CODE_FILE names.
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
    """`"; did you mean 'x'?"` for the closest known name, or the empty string where nothing is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help texts with their defaults, where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False and action.default != []
        return super()._get_help_string(action) if has_default else action.help


class StrictParser(argparse.ArgumentParser):
    """An `ArgumentParser` without prefix matching whose errors are `UsageError`s that suggest the nearest option."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """Names an unknown option before argparse can complain of the required one that it was meant to be."""
        if self._subparsers is None:  # else the command's own parser knows them
            for option in (arg.split("=")[0] for arg in (sys.argv[1:] if args is None else args)):
                if option.startswith("--") and option != "--" and option not in self._option_string_actions:
                    self.error(f"unknown option '{option}'{nearest(option, list(self._option_string_actions))}")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown option '{unknown[0]}'{nearest(unknown[0], list(self._option_string_actions))}")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


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


def cpus() -> int:
    """How many processor cores this process may use: a job on a cluster has a part of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def write_manifest(
    folder: Path,
    *,
    config: dict[str, Any],
    inputs: dict[str, str | Path],
    counts: dict[str, Any],
    seed: int | None = None,
    started: float | None = None,
    fingerprints: dict[str, str] | None = None,
) -> None:
    """Writes `manifest.json`: everything needed to trace a number to what made it. Written last in its folder.

    Args:
        folder: the output folder.
        config: the resolved options of the run.
        inputs: name -> path or Hub id; stored with its `fingerprint`.
        counts: what came out, and what was dropped and why.
        seed: the seed of the run, if it has one.
        started: `time.time()` at the start; gives `wall_seconds`.
        fingerprints: those of inputs that are known already, by name.
    """
    known = fingerprints or {}
    manifest = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "config": config,
        "inputs": {
            name: {"path": str(path), "sha256": known.get(name) or fingerprint(path)} for name, path in inputs.items()
        },
        "seed": seed,
        "counts": counts,
        "git_revision": git_revision(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": sys.version.split()[0],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "wall_seconds": None if started is None else round(time.time() - started, 1),
    }
    write_text(Path(folder) / MANIFEST, json.dumps(manifest, indent=2, default=str) + "\n")


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The folder's manifest, or None where there is none."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def is_finished(folder: str | Path, config: dict[str, Any], inputs: dict[str, str | Path]) -> bool:
    """Whether `folder` holds the finished result of the same options on the same inputs."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    hashes = {name: entry["sha256"] for name, entry in manifest.get("inputs", {}).items()}
    same_config = manifest.get("config") == json.loads(json.dumps(config, default=str))
    return same_config and hashes == {name: fingerprint(path) for name, path in inputs.items()}


def git_revision() -> str | None:
    """The commit of the checkout this package lies in, with `-dirty` for uncommitted changes; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    if shutil.which("git") is None:
        return None
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
