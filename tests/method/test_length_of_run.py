"""What a run says at its start about its length: a guard that cannot stop it, a schedule that changes."""

import logging

import pytest
from helpers.commands import arguments, log_of

from redi import REDIConfig
from redi.callbacks import why_guard_never_stops
from redi.training import train


@pytest.mark.parametrize(
    "options, logs",
    [
        (["--logging_steps", "2"], 3),
        (["--logging_steps", "4"], 1),
        (["--logging_steps", "4", "--logging_first_step", "true"], 2),
        (["--logging_steps", "0.5"], 2),
        (["--logging_strategy", "epoch"], 2),
        (["--logging_strategy", "no"], 0),
        (["--logging_steps", "1"], 6),
    ],
)
def test_a_guard_that_can_never_stop_the_run_says_so(model_path, rows_file, tmp_path, caplog, options, logs):
    """16 pairs, 4 a step, 6 steps: one epoch and a half. The numbers of logs are those of the run itself."""
    options += ["--max_steps", "6", "--per_device_train_batch_size", "4", "--collapse_guard", "stop"]
    options += ["--collapse_window", "3", "--collapse_patience", "3"]
    with caplog.at_level(logging.WARNING, logger="redi.callbacks"):
        train("redi", arguments(model_path, rows_file, tmp_path / "out", *options))
    assert len(log_of(tmp_path / "out")) == logs
    assert (
        f"needs 6 logged steps (collapse_window=3 + collapse_patience=3), but 6 steps log {logs} times" in caplog.text
    ) == (logs < 6)


def test_only_a_guard_that_stops_is_asked():
    args = REDIConfig(output_dir="o", collapse_guard="warn", use_cpu=True, bf16=False)
    assert why_guard_never_stops(args, 2, 1) is None


def test_another_length_at_a_resume_says_that_the_learning_rate_jumps(model_path, rows_file, tmp_path, caplog):
    argv = arguments(model_path, rows_file, tmp_path / "out", "--save_strategy", "steps", "--save_steps", "1")
    train("redi", argv)
    (tmp_path / "out" / "manifest.json").rename(tmp_path / "manifest.json")  # as if killed before it was written
    with caplog.at_level(logging.WARNING, logger="redi.callbacks"):
        train("redi", [*argv, "--max_steps", "4"])
    assert "the learning rate jumps after step 2: the run had 2 steps and now has 4" in caplog.text
    assert "lr_scheduler_type=linear" in caplog.text
