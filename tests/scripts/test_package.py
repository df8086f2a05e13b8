"""The installed package, away from the checkout: it brings its configuration files and the report page with it."""

import os
import subprocess
import sys

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
