"""`manifest.json`: what made an output folder, from which inputs and options."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import CARD, MANIFEST, fingerprint, write_text

PACKAGES = ["redi", "torch", "transformers", "trl", "accelerate", "datasets", "deepspeed", "vllm", "math-verify"]
# The types of the entries that commands read.
TYPES = {"config": dict, "inputs": dict, "counts": dict, "packages": dict, "sizes": dict, "grading": dict}
TYPES |= {"counts.rows": int, "counts.files": dict, "grading.counts": dict}


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

    `config` are the resolved options, `inputs` name -> path or Hub id, stored with its fingerprint unless that is in
    `fingerprints`, `counts` those of the output and of what was dropped and why. `started`, a `time.time()`, gives
    `wall_seconds`. The sizes of the folder's files are recorded, those of checkpoints left out.
    """
    hashes = {name: fingerprint(path) for name, path in inputs.items() if name not in (fingerprints or {})}
    hashes |= fingerprints or {}
    packages = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    manifest = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "config": config,
        "inputs": {name: {"path": str(path), "sha256": hashes[name]} for name, path in inputs.items()},
        "seed": seed,
        "counts": counts,
        "sizes": _sizes(Path(folder)),
        "git_revision": git_revision(),
        "packages": packages,
        "python": sys.version.split()[0],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "wall_seconds": None if started is None else round(time.time() - started, 1),
        **(extra or {}),
    }
    write_text(Path(folder) / MANIFEST, json.dumps(manifest, indent=2, default=str) + "\n")


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for pattern in ("[!.]*", "[!.]*/[!.]*") for path in folder.glob(pattern) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in files
        if path.name not in (MANIFEST, CARD) and not path.parent.name.startswith("checkpoint-")
    }


def read_manifest(folder: str | Path, *required: str, name: str = MANIFEST) -> dict[str, Any] | None:
    """The folder's manifest, or another record of this form; None if it has none.

    A `UsageError` if it is not a JSON object, lacks an entry of `required`, such as `counts.rows`, or holds one
    that is not of its type in `TYPES`.
    """
    path = Path(folder) / name
    if not path.is_file():
        return None
    remedy = "use another folder, or make this one again"
    with usage_errors(lambda error: f"{path} is not readable JSON: {error}; {remedy}", ValueError, OSError):
        manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise UsageError(f"{path} is not a JSON object but {type(manifest).__name__}; {remedy}")
    for entry in dict.fromkeys([*TYPES, *required]):  # `counts` comes before `counts.rows`
        value: Any = manifest
        for key in entry.split("."):
            value = (value or {}).get(key)
        if value is None and entry in required:
            raise UsageError(f"{path} has no '{entry}'; {remedy}")
        if value is not None and not isinstance(value, TYPES.get(entry, object)):
            raise UsageError(f"{path}: '{entry}' is {json.dumps(value)[:40]}, of the wrong type; {remedy}")
    for entry, given in (manifest.get("inputs") or {}).items():
        if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("path", "sha256")):
            raise UsageError(f"{path}: 'inputs.{entry}' has no path and sha256; {remedy}")
    return manifest


def is_finished(folder: str | Path, config: dict[str, Any], inputs: dict[str, str | Path]) -> bool:
    """Whether `folder` holds the finished result of the same options on the same inputs, with all its files."""
    manifest = read_manifest(folder, "config", "inputs", "counts")
    if manifest is None or manifest["config"] != json.loads(json.dumps(config, default=str)):
        return False
    if not (manifest.get("sizes") or {}).items() <= _sizes(Path(folder)).items():
        return False
    hashes = {name: entry["sha256"] for name, entry in manifest["inputs"].items()}
    return hashes == {name: fingerprint(path) for name, path in inputs.items()}


def git_revision() -> str | None:
    """The commit of the checkout that holds this package, with `-dirty` for uncommitted changes; None outside git."""
    if shutil.which("git") is None or _git("rev-parse", "--show-prefix") != "redi/runs/":  # inside another repository
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40") or None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
