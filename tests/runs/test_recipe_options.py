"""Options from a recipe and the command line: one spelling, strictly checked."""

import re

import pytest
from helpers.commands import CPU
from helpers.paths import REPOSITORY

from redi import REDIConfig
from redi.job import RunArguments
from redi.runs.errors import UsageError
from redi.runs.recipe_options import parse_options


def refused(argv: list[str], *types: type) -> str:
    with pytest.raises(UsageError) as caught:
        parse_options(argv, list(types) or [RunArguments, REDIConfig])
    return str(caught.value)


def test_misspelt_keys_name_the_nearest_valid_key(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("learning_rte: 1e-3\n")
    assert refused(["--config", str(config)]) == "unknown key 'learning_rte'; did you mean 'learning_rate'?"
    assert refused(["--alhpa", "0.5"]) == "unknown option '--alhpa'; did you mean '--alpha'?"
    assert refused(["--learning_rat", "1"]).startswith("unknown option")  # no prefix matching


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_steps: many\n", "argument --max_steps.*: invalid int value: 'many'"),
        ("per_device_train_batch_size: 1.5\n", "invalid int value: '1.5'"),
        ("learning_rate: .nan\n", "argument --learning_rate.*: nan is not a finite number"),
        ("alpha: .inf\n", "argument --alpha.*: inf is not a finite number"),
        ("beta: 0.1\n", "beta=0.1 is a DPO option that REDI does not read"),
        ("- a list\n", "must hold `key: value` lines"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_wrong_values_are_refused(tmp_path, text, message):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    argv = ["--config", str(config), "--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", *CPU]
    assert re.search(message, refused(argv))


def test_yaml_values_and_command_line_overrides(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nlearning_rate: 1e-6\nmax_length: null\n"
        "model_init_kwargs: {dtype: bfloat16}\nalpha: 0.2\n"
    )
    (run, args), given = parse_options(["--config", str(config), "--alpha", "0.5", *CPU], [RunArguments, REDIConfig])
    assert (run.model_name_or_path, args.learning_rate, args.max_length, args.alpha) == ("m", 1e-6, None, 0.5)
    assert args.model_init_kwargs == {"dtype": "bfloat16"}
    assert given["alpha"] == 0.5 and "weight_decay" not in given


def test_a_run_is_named_after_its_recipe_and_what_overrides_it():
    recipe = ["--config", str(REPOSITORY / "recipes/redi/quickstart/config.yaml")]

    def name(*argv: str) -> str:
        return parse_options([*recipe, *argv], [RunArguments, REDIConfig])[0][1].run_name

    assert name() == "redi/quickstart"
    assert name("--alpha", "0.5", "--output_dir", "x", "--seed=7") == "redi/quickstart alpha=0.5 seed=7"
    assert name("--alpha", "0.5", "--run_name", "mine") == "mine"


@pytest.mark.parametrize("text", ["model_name_or_path:", "model_name_or_path: ''", "output_dir:", "dataset_name:"])
def test_an_empty_path_is_refused(tmp_path, text):
    key = text.split(":")[0]
    paths = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}
    config = tmp_path / "config.yaml"
    config.write_text("".join(f"{name}: {value}\n" for name, value in paths.items() if name != key) + text)
    argv = ["--config", str(config), *CPU]
    assert refused(argv) == f"{key} is empty; give it a value"
    parse_options([*argv, f"--{key}", "x"], [RunArguments, REDIConfig])  # the command line gives one
    assert refused([*argv, f"--{key}="]) == f"{key} is empty; give it a value"


def test_one_file_of_options_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert refused(["--config", f"{tmp_path}/config.yaml", f"--config={tmp_path}/x"]).startswith(
        "--config is given twice"
    )


def test_numbers_below_an_option_reach_it_as_numbers(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}\n")
    argv = ["--model_name_or_path", "m", "--dataset_name", "d", "--config", str(config), *CPU]
    assert parse_options(argv, [RunArguments, REDIConfig])[0][1].lr_scheduler_kwargs == {"min_lr": 1e-7}
