"""Finds the files of a folder that are its data: of one kind, and of the split `train` if there are splits."""

import re
from collections import Counter
from pathlib import Path

from redi.runs.errors import UsageError
from redi.runs.files import MANIFEST
from redi.runs.jsonl import DECOMPRESS

KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv"}
FORMATS = ".parquet, .jsonl, .ndjson, .json or .csv (all but the first also as .gz, .bz2 or .xz)"
# As `datasets` recognises splits by file names.
SPLIT = re.compile(r"(?:^|[-._ 0-9])(train|test|validation|valid|val|dev|eval)(?:ing|uation)?(?=[-._ 0-9]|$)")
ABOUT_DATA = (MANIFEST, "report.json", "lengths.json", "dataset_info.json", "dataset_infos.json", "state.json")
NOT_DATA = (".md", ".png", ".svg", ".html", ".py", "")


def kind_of(file: Path) -> str | None:
    """ "parquet", "jsonl", "json" or "csv", by the file's name; None for another format."""
    compressed = file.suffix in DECOMPRESS
    kind = KINDS.get((Path(file.stem) if compressed else file).suffix.lower())
    return None if compressed and kind == "parquet" else kind


def data_files(path: Path) -> list[Path]:
    """A file itself, or the data files directly in a folder, in the order of their names.

    Of a folder it prints what is read and what is not: other splits, other formats and subfolders, but no hidden
    files, manifests, cards and pictures. A file of another format, and a folder without data files, of several kinds,
    or with an unclear split, are `UsageError`s.
    """
    if path.is_file():
        if kind_of(path) is None:
            raise UsageError(f"--input {path}: the format '{path.suffix}' is not read; give {FORMATS}")
        return [path]
    mentioned = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_mentioned(file.relative_to(path))]
    here = [file for file in mentioned if file.parent == path]
    below = Counter(f"{file.relative_to(path).parts[0]}/" for file in mentioned if file not in here and kind_of(file))
    found = _of_one_split(path, [file for file in here if kind_of(file)])
    left_out = [file.name for file in here if file not in found]
    left_out += [f"{folder} ({number} files)" for folder, number in sorted(below.items())]
    if not found:
        holds = f"; it holds {_listed(left_out)}: give one of them" if left_out else ""
        raise UsageError(f"--input {path} holds no {FORMATS} files{holds}")
    _check_one_kind(path, found)
    said = f"reading {path}: {_listed([file.name for file in found])}"
    print(f"{said}; not read: {_listed(left_out)}" if left_out else said, flush=True)
    return found


def _is_mentioned(file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.parts)
    return not hidden and file.name not in ABOUT_DATA and file.suffix not in NOT_DATA


def _of_one_split(path: Path, files: list[Path]) -> list[Path]:
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        name = SPLIT.search(file.name.lower())
        splits.setdefault(name and name.group(1), []).append(file)
    if len(splits) < 2:
        return files
    if "train" not in splits or None in splits:
        one_each = _listed([of_split[0].name for of_split in splits.values()])
        raise UsageError(f"--input {path}: which files are the split 'train'? It holds {one_each}; give one file")
    return splits["train"]


def _check_one_kind(path: Path, files: list[Path]) -> None:
    if len(kinds := set(map(kind_of, files))) > 1:
        names = " and ".join(f".{kind}" for kind in dict.fromkeys(KINDS.values()) if kind in kinds)
        raise UsageError(f"--input {path} holds both {names} files; give a folder of one kind, or one file")
    stems = Counter(file.stem if file.suffix in DECOMPRESS else file.name for file in files)
    name, number = stems.most_common(1)[0]
    if number > 1:
        raise UsageError(f"--input {path} holds '{name}' {number} times, compressed too; remove all but one")


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]} ({len(names)} in all)"
