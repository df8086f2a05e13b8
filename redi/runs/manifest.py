"""`manifest.json`: what made an output folder, from which inputs and options."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from redi.runs.files import MANIFEST, fingerprint, write_text

PACKAGES = ["redi", "torch", "transformers", "trl", "accelerate", "datasets", "deepspeed", "vllm", "math-verify"]


def write_manifest(
    folder: Path,
    *,
    config: dict[str, Any],
    inputs: dict[str, str | Path],
    counts: dict[str, Any],
    seed: int | None = None,
    started: float | None = None,
    fingerprints: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes `manifest.json`, which traces every number to what made it. It is the last file to be written.

    Args:
        folder: the output folder.
        config: the resolved options of the run.
        inputs: name -> path or Hub id; stored with its `fingerprint`.
        counts: of the output, and of what was dropped and why.
        seed: the seed of the run, if it has one.
        started: `time.time()` at the start; gives `wall_seconds`.
        fingerprints: of the inputs that are hashed already, by name.
        extra: further entries.
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
        **(extra or {}),
    }
    write_text(Path(folder) / MANIFEST, json.dumps(manifest, indent=2, default=str) + "\n")


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The folder's manifest; None if it has none."""
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
    """The commit of the checkout that holds this package, with `-dirty` for uncommitted changes; None outside git."""
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
