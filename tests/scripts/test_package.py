"""The installed package, away from the checkout: it brings its configuration files and the report page with it."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest
from helpers.paths import REPOSITORY

USES_CONFIGS = """
import redi
from redi.evaluation.reporting.reproduce import PAPER
from redi.runs.files import CONFIGS
from redi.text.prompts import read_chat_template
assert "checkout" not in redi.__file__ and PAPER.is_file() and (CONFIGS / "accelerate" / "zero2.yaml").is_file()
assert "<|im_start|>" in read_chat_template("qwen2.5-math")
print(redi.__file__)
"""


@pytest.mark.slow
def test_configs_are_part_of_the_wheel(tmp_path):
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(checkout)], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(checkout),
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", USES_CONFIGS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith(str(tmp_path / "site"))


def test_every_imported_package_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.match(r"[\w.-]+", requirement)[0].lower().replace("-", "_") for requirement in declared}
    names = {"yaml" if name == "pyyaml" else name for name in names} | {"redi"} | set(sys.stdlib_module_names)
    for path in (REPOSITORY / "redi").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0].lower() for name in imported} <= names, path
