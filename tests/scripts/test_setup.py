"""`scripts/venv.sh`: virtual environments that repair themselves. `pip install` runs only in the complete set-up."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import pytest
from helpers.paths import REPOSITORY
from packaging.specifiers import SpecifierSet

HOME_MADE = """
set -euo pipefail
source {repository}/scripts/venv.sh
fill() {{ env/bin/python -c 'import pip, os; assert "PYTHONPATH" not in os.environ' && echo filled >>log; {then}; }}
make_venv env "$1" fill "$PYTHON"
"""


@pytest.fixture
def setup(tmp_path):
    """Starts a set-up of the folder `env`; `then` is a command that the installation ends with."""

    def start(wanted="1", then="true", python=sys.executable, **environment):
        script = tmp_path / "setup.sh"
        script.write_text(HOME_MADE.format(repository=REPOSITORY, then=then))
        return subprocess.Popen(
            ["bash", str(script), wanted],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHON": python, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def wait(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out + err


def test_a_set_up_is_made_once_and_again_for_other_packages(setup, tmp_path):
    hostile = {
        "PYTHONPATH": "/nonexistent",
        "PYTHONHOME": "/nonexistent",
        "PIP_USER": "1",
        "PIP_TARGET": "/nonexistent",
    }
    assert "done in" in wait(setup(**hostile))
    assert wait(setup(**hostile)) == ""
    wait(setup(wanted="2"))
    assert (tmp_path / "log").read_text() == "filled\n" * 2


def test_an_interrupted_set_up_starts_again_from_nothing(setup, tmp_path):
    process = setup(then="touch env/half; sleep 60")
    while not (tmp_path / "env" / "half").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait(setup())
    assert not (tmp_path / "env" / "half").exists() and (tmp_path / "env" / "redi-setup-done").is_file()


def test_an_environment_without_pip_is_made_again(setup, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    wait(setup())
    assert (tmp_path / "log").read_text() == "filled\n"


def test_two_set_ups_wait_for_each_other(setup, tmp_path):
    first = setup(then="sleep 2")
    while not (tmp_path / "env.lock").is_file() or not (tmp_path / "env.lock").read_text():
        time.sleep(0.05)
    assert "waiting for another set-up" in wait(setup())
    wait(first)
    assert (tmp_path / "log").read_text() == "filled\n"


def test_a_python_that_cannot_be_used_is_named(setup, tmp_path):
    assert "not a Python >= 3.11 with venv and pip: /nonexistent" in wait(setup(python="/nonexistent"), code=2)
    assert not (tmp_path / "env").exists()


def test_every_pinned_package_supports_the_oldest_python_that_is_promised():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    oldest = re.fullmatch(r">=(\d+\.\d+)", project["requires-python"])[1]
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert len(pins) > 80 and dict(pins)["torch"] == "2.13.0"
    for name, version in pins:
        distribution = importlib.metadata.distribution(name)
        needed = distribution.metadata["Requires-Python"] or ""
        assert SpecifierSet(needed).contains(f"{oldest}.0"), f"{name} needs Python {needed}"
        if not os.environ.get("REDI_UPGRADE"):
            assert distribution.version.split("+")[0] == version, f"{name}: constraints.txt names another version"
