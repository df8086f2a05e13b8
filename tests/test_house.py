"""The rules of the house: which room may import which, what redi may not name, and sizes of files and folders."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import REPOSITORY

# From top to bottom. A room imports only from itself and from rooms below it.
ROOMS = [
    "redi.preflight",
    "redi",  # stages, training, trainer, losses and the other modules directly in redi/
    "redi.engine",
    "redi.data",
    "redi.evaluation",
    "redi.text",
    "redi.runs",
]
LEVELS = {room: level for level, room in enumerate(ROOMS)}
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((REPOSITORY / "redi").rglob("*.py"))
}
# Entry points are imported by their file names, since their folders are on sys.path when they run.
ENTRY_POINTS = {
    path.stem for folder in ("scripts", "data_preprocess", "recipes") for path in (REPOSITORY / folder).rglob("*.py")
}


def room_of(module: str) -> str:
    return max((room for room in LEVELS if f"{module}.".startswith(f"{room}.")), key=len)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import: `redi.runs.files` for `from redi.runs import files`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((node.lineno, name if name in MODULES else node.module) for name in names)


def check_none(offenders: list[str]) -> None:
    assert not offenders, "\n" + "\n".join(offenders)


def test_rooms_import_only_from_rooms_below():
    offenders = []
    for module, path in MODULES.items():
        if module == "redi":  # its public names are imported on first use
            continue
        room = room_of(module)
        for line, name in sorted(set(imports_of(path))):
            if name.split(".")[0] in ENTRY_POINTS:
                offenders.append(f"{path}:{line} imports the entry point {name}")
            elif name in MODULES and LEVELS[room_of(name)] < LEVELS[room]:
                offenders.append(f"{path}:{line} imports {name}, which is above {room}")
    check_none(offenders)


def test_redi_names_no_script():
    offenders = []
    for path in sorted((REPOSITORY / "redi").rglob("*")):
        if path.suffix in (".py", ".html"):
            lines = enumerate(path.read_text().splitlines(), 1)
            offenders += [f"{path}:{number} {line.strip()}" for number, line in lines if "scripts/" in line]
    check_none(offenders)


def test_no_error_is_caught_blindly():
    offenders = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            ):
                offenders.append(f"{path}:{node.lineno} names no error, or every error")
    check_none(offenders)


def test_files_and_folders_stay_small():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES.values()}
    offenders = [f"{path} has {length} lines, more than 350" for path, length in lengths.items() if length > 350]
    folders = Counter(path.parent for path in MODULES.values())
    check_none(offenders + [f"{folder} has {n} Python files, more than 16" for folder, n in folders.items() if n > 16])


def test_arrays_that_may_be_empty_expand_in_old_versions_of_bash():
    """Up to bash 4.3, `"${a[@]}"` of an empty array is an unbound variable under `set -u`."""
    files = [path for folder in ("recipes", "scripts") for path in (REPOSITORY / folder).rglob("*")]
    offenders = []
    for path in files:
        text = path.read_text() if path.suffix in (".sh", ".sbatch") else ""
        empty = re.findall(r"(\w+)=\((?=\)|\"\$\{@)|read .*-a (\w+)", text)
        for name in {first or second for first, second in empty}:
            unguarded = rf"(?<!\+)\"\$\{{{name}\[@\]\}}\""
            if re.search(unguarded, text) and f"{name}+=(" not in text:
                offenders.append(f"{path}: {name}")
    check_none(offenders)
