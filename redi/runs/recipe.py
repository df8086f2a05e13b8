"""Reads a recipe's `config.yaml`, without torch.

Shell scripts ask `python -m redi.runs.recipe RECIPE_FOLDER KEY [KEY ...]`, which prints a line for each key.
A key that the recipe does not set gives an empty line.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redi.runs.errors import UsageError, entry_point, usage_errors
from redi.runs.option_values import check_value

if TYPE_CHECKING:
    import yaml

# YAML 1.1, which PyYAML reads, needs a point: 1e-7 would be text. At most six characters, so that no hash is a number.
_FLOAT = re.compile(r"[-+]?(\d{1,3}|\d*\.\d+)[eE][-+]?\d{1,2}")


def read_config(path: Path, option: str = "--config") -> dict[str, Any]:
    """The mapping in a YAML file, with the values expanded by `check_value`; empty for an empty file.

    Raises:
        UsageError: the file is missing, is not YAML, gives a key twice, or holds something else than `key: value`
            lines; or `check_value` refuses a value.
    """
    import yaml  # not a part of Python: --help works without packages

    if not path.is_file():
        raise UsageError(f"{option} {path} does not exist")
    kinds = (yaml.YAMLError, UnicodeDecodeError, OSError)
    with usage_errors(lambda error: f"{option} {path} is not valid YAML: {error}", *kinds):
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _check_node(node)
        config = None if node is None else loader.construct_document(node)
    if config is not None and not isinstance(config, dict):
        raise UsageError(f"{option} {path} must hold `key: value` lines")
    return {key: check_value(key, value) for key, value in (config or {}).items()}


def _check_node(node: "yaml.Node | None", depth: int = 0) -> None:
    """Refuses a key given twice in one mapping, and reads 1e-7 in a nested mapping as a number."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"the key '{key.value}' is given twice, again in line {key.start_mark.line + 1}")
            seen.add(str(key.value))
            _check_node(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(item, depth)
    elif isinstance(node, yaml.ScalarNode) and depth > 1 and node.style is None and _FLOAT.fullmatch(node.value):
        node.tag = "tag:yaml.org,2002:float"


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
