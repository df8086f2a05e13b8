"""An objective is one entry of `redi.losses.OBJECTIVES`: options, trainer, card, preflight and plots follow."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.commands import log_of
from helpers.oracle import oracle_tokens
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from transformers import AutoModelForCausalLM

from redi.evaluation.reporting.training_dynamics import logged_panels

RECIPES = {"hinge": "hinge_margin: 3.0\n", "floor": "floor: -4.0\nalpha: 0.5\n"}


@pytest.fixture(scope="module")
def said(tmp_path_factory, model_path, rows_file) -> tuple[dict, str]:
    """The folders of two steps of each objective on all 16 pairs, and what preflight and training print."""
    folder = tmp_path_factory.mktemp("objectives")
    common = f"model_name_or_path: {model_path}\ndataset_name: {rows_file}\nper_device_train_batch_size: 16\n"
    common += "max_steps: 2\nlogging_steps: 1\nsave_strategy: 'no'\naccelerate_config: single_gpu\n"
    recipes = []
    for name, options in RECIPES.items():
        recipes.append(folder / "redi" / name / "config.yaml")
        recipes[-1].parent.mkdir(parents=True)
        recipes[-1].write_text(f"objective: {name}\noutput_dir: {folder / name}\n{common}{options}")
    command = [sys.executable, str(REPOSITORY / "tests/helpers/added_objectives.py"), *map(str, recipes)]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return {name: folder / name for name in RECIPES}, result.stdout


def test_the_losses_are_those_of_plain_pytorch(said, model_path, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(model_path)
    hinges, floors = [], []
    for row in make_pairs(16):
        prompt = row["prompt"][0]["content"]
        chosen, rejected = (
            oracle_tokens(model, tokenizer, prompt, row[side][0]["content"]) for side in ("chosen", "rejected")
        )
        hinges.append(torch.relu(3.0 - chosen.mean() + rejected.mean()).item())
        floors.append((-chosen.mean() + 0.5 * rejected.clamp(min=-4.0).mean()).item())
    for name, losses in (("hinge", hinges), ("floor", floors)):
        first, second = (entry["loss"] for entry in log_of(said[0][name]))
        assert first == pytest.approx(sum(losses) / 16, abs=2e-5)
        assert second < first  # its gradient points down


def test_cards_preflight_and_plots_know_it(said):
    folders, printed = said
    hinge, floor = ((folder / "README.md").read_text() for folder in folders.values())
    assert "A hinge ([The hinge's paper](https://huggingface.co/papers/1234.00001)), with `hinge_margin` 3.0." in hinge
    assert "with `alpha` 0.5, `floor` -4.0." in floor and "\n- floor\n" in floor and "REDI" not in floor + hinge
    assert printed.count("No problem found.") == 2 and printed.count("with pads") == 1  # the hinge is padded
    assert printed.count("the paper's for REDI") == 2  # Table 5 has no such row
    assert all(lines for panel in logged_panels(folders).values() for lines in panel.values())
