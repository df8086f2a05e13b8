"""--help of all commands: it needs no package and does nothing else."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers.paths import REPOSITORY

from redi.help import USUAL, training_help
from redi.job import UNREAD_OPTIONS, RunArguments
from redi.stages import STAGES


@pytest.mark.parametrize("script", ["setup", "setup_vllm", "test", "quickstart"])
def test_help_installs_nothing(tmp_path, script):
    source = (REPOSITORY / "scripts" / f"{script}.sh").read_text()
    copy = tmp_path / "scripts" / f"{script}.sh"
    copy.parent.mkdir()
    copy.write_text(source)
    (copy.parent / "quickstart").symlink_to(REPOSITORY / "scripts" / "quickstart")
    result = subprocess.run(["bash", str(copy), "--help"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert source.splitlines()[1].removeprefix("# ") in result.stdout.replace("# ", "")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("command", ["preflight", "evaluate", "train_sft", "train_redi", "train_dpo"])
def test_help_needs_no_package(command, tmp_path):
    """As with a Python that has only its own library."""
    commands = [["evaluate", "run"], ["evaluate", "generate"]] if command == "evaluate" else [[command]]
    for script, *rest in commands:
        python = [sys.executable, "-S", "-E", str(REPOSITORY / "scripts" / f"{script}.py"), *rest, "--help"]
        result = subprocess.run(python, capture_output=True, text=True, cwd=tmp_path, timeout=20)
        assert result.returncode == 0 and result.stdout.startswith("usage: "), result.stderr
    assert ("--key value" in result.stdout) == (command == "preflight") or "[--key value ...]" in result.stdout


@pytest.mark.parametrize("script", ["train", "eval"])
def test_help_of_a_recipe_needs_no_environment(script, tmp_path):
    for folder in ("recipes", "configs", "scripts", "redi"):  # and no .venv
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    recipe = tmp_path / "recipes" / "simpo" / "quickstart" / f"{script}.sh"
    command = ["bash", str(recipe), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=20)
    assert result.returncode == 0 and result.stdout.startswith("usage: "), result.stderr


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_help_of_training_is_that_of_its_options(stage):
    text = (REPOSITORY / "configs" / "help" / f"{stage}.txt").read_text()
    assert text == training_help(stage), "run `python -m redi.help`"
    assert len(text.splitlines()) < 110 and max(map(len, text.splitlines())) <= 100
    listed = re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)
    known = {field.name for kind in (RunArguments, STAGES[stage].config) for field in fields(kind)}
    assert len(listed) == len(set(listed)) and set(listed) <= known
    assert not set(listed) & (UNREAD_OPTIONS | STAGES[stage].unread).keys()
    assert listed[0] == "model_name_or_path" and listed.index("learning_rate") > listed.index("lora_r")
    if stage == "redi":
        own = ["alpha", "objective", "padding_free", "collapse_guard", "log_update_norm"]
        assert max(map(listed.index, own)) < listed.index("num_train_epochs")


def test_every_usual_option_is_one_of_some_stage():
    names = {name for options in USUAL.values() for name in options}
    known = {field.name for stage in STAGES.values() for field in fields(stage.config)}
    assert names <= known
