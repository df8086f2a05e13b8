"""Reads a recipe's `config.yaml`, without torch.

Shell scripts ask `python -m redi.runs.recipe RECIPE_FOLDER KEY [KEY ...]`, which prints a line for each key.
A key that the recipe does not set gives an empty line.
"""

from pathlib import Path
from typing import Any

import yaml

from redi.runs.errors import UsageError, entry_point, usage_errors


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        UsageError: the file is missing, is not YAML, or holds something else than `key: value` lines.
    """
    if not path.is_file():
        raise UsageError(f"--config {path} does not exist")
    with usage_errors(lambda error: f"--config {path} is not valid YAML: {error}", yaml.YAMLError):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if config is not None and not isinstance(config, dict):
        raise UsageError(f"--config {path} must hold `key: value` lines")
    return config or {}


@entry_point
def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UsageError("python -m redi.runs.recipe needs a recipe folder and at least one key")
    config = read_config(Path(argv[0]) / "config.yaml")
    for key in argv[1:]:
        value = config.get(key)
        print("" if value is None else value)


if __name__ == "__main__":
    main()
