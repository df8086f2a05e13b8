"""Values of options: variables and `~` are expanded, and no secret reaches a file."""

import re

import pytest
import train_redi
from helpers.commands import arguments

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError
from redi.runs.option_values import check_arguments, check_value

TOKEN = "hf_" + "aB3" * 11


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("EMPTY", "")


@pytest.mark.parametrize(
    "text, expanded",
    [
        ("${SCRATCH}/runs", "/scratch/me/runs"),
        ("$SCRATCH/runs", "/scratch/me/runs"),
        ("$SCRATCH", "/scratch/me"),
        ("a/${SCRATCH}", "a//scratch/me"),
        ("~/runs", "/home/me/runs"),
        ("~", "/home/me"),
        ("5 ~ 6", "5 ~ 6"),
        ("$x$", "$x$"),  # mathematics
        ("costs $5", "costs $5"),
        ('{"cache_dir": "~/x"}', '{"cache_dir": "/home/me/x"}'),
    ],
)
def test_variables_and_the_home_folder_are_expanded(text, expanded):
    assert check_value("--key", text) == expanded
    assert check_value("key", {"a": [text, 1, None]}) == {"a": [expanded, 1, None]}
    assert check_arguments(["--key", text, f"--key={text}"]) == ["--key", expanded, f"--key={expanded}"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("${UNSET}/runs", "output_dir=${UNSET}/runs: the environment variable UNSET is not set"),
        ("$UNSET/runs", "output_dir=$UNSET/runs: the environment variable UNSET is not set"),
        ("${EMPTY}/runs", "output_dir=${EMPTY}/runs: the environment variable EMPTY is not set"),
        ("${UNSET:-x}/runs", "output_dir=${UNSET:-x}/runs: only ${NAME} is understood"),
        ("~no-such-user/runs", "output_dir=~no-such-user/runs: the home folder ~no-such-user is not known"),
    ],
)
def test_what_is_not_known_is_refused(text, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_value("output_dir", text)


@pytest.mark.parametrize(
    "option, value",
    [
        ("hub_token", "anything"),
        ("--hub-token", "anything"),
        ("model_init_kwargs", {"token": "anything"}),
        ("model_init_kwargs", '{"nested": {"use_auth_token": "anything"}}'),
        ("dataset_name", "https://me:anything@host/data"),
        ("dataset_name", "s3://anything@host/data"),
        ("--base-url", "http://host/v1?api_key=anything"),
        ("model_name_or_path", f"https://host/{TOKEN}"),
        ("run_name", "${WANDB_API_KEY}"),
        ("report_to", ["wandb", "anything-of-wandb"]),
    ],
)
def test_secrets_are_refused_and_not_repeated(option, value, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "anything-of-wandb")
    with pytest.raises(UsageError, match="set the environment variable HF_TOKEN") as caught:
        check_value(option, value)
    assert "anything" not in str(caught.value) and TOKEN not in str(caught.value)


def test_what_only_looks_like_a_secret_passes():
    for option, value in [("eos_token", "</s>"), ("max_tokens", "8"), ("model_init_kwargs", {"token": True})]:
        assert check_value(option, value) == value
    assert check_value("dataset_name", "hf://datasets/me/x") == "hf://datasets/me/x"


def test_every_command_checks_its_values():
    parser = StrictParser()
    parser.add_argument("--output")
    assert parser.parse_args(["--output=~/x"]).output == "/home/me/x"
    with pytest.raises(UsageError, match="--output holds a password or token"):
        parser.parse_args(["--output", f"{TOKEN}"])


def test_no_secret_reaches_a_file(model_path, rows_file, tmp_path, monkeypatch, capsys):
    """Given as an option it ends the run before its folder exists; from the environment no file of a run holds it."""
    out, config = tmp_path / "out", tmp_path / "config.yaml"
    config.write_text(f"hub_token: {TOKEN}\n")
    argv = arguments(model_path, rows_file, out, "--save_strategy", "steps")
    for extra in (["--hub_token", TOKEN], ["--config", str(config)], ["--hub_model_id", f"https://me:{TOKEN}@host"]):
        with pytest.raises(SystemExit) as caught:
            train_redi.main([*argv, *extra])
        assert caught.value.code == 2 and not out.exists()
        assert TOKEN not in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    train_redi.main(argv)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"manifest.json", "README.md", "training_args.bin"} <= {path.name for path in files}
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
