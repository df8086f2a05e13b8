"""The quickstart as a user runs it: the whole method on the CPU, its claim, and that a second run trains nothing."""

import json
import os
import subprocess

import pytest
import show_habit
from helpers.paths import REPOSITORY

from redi.evaluation.reporting.training_dynamics import plot_dynamics, read_log
from redi.runs.errors import UsageError


def run_quickstart(*arguments: str) -> subprocess.CompletedProcess:
    command = ["bash", str(REPOSITORY / "scripts/quickstart.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_redi_is_above_sft_and_more_sft_and_a_second_run_trains_and_samples_nothing(tmp_path):
    """One test, so that two test processes do not both run the quickstart."""
    out = tmp_path / "out"
    first = run_quickstart("--output", str(out))
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    rows = {row["name"]: row for row in json.loads((out / "report/table.json").read_text())["rows"]}
    redi = rows["redi"]["benchmarks"]["digits"]
    assert redi["differences"]["sft"]["low"] > 0.03  # 3 points at the lower end of the paired 95 % interval
    assert redi["differences"]["sft_more"]["low"] > 0.03
    assert rows["base"]["benchmarks"]["digits"]["pass_at_1"] < 0.05
    for name in ("table.md", "pass_at_1.png", "training_dynamics.png", "habit.md", "report/report.html"):
        assert (out / name).stat().st_size > 0

    results = [*out.glob("*/model.safetensors"), *out.glob("evaluation/*/generations.jsonl")]
    before = {path: path.stat().st_mtime_ns for path in results}
    again = run_quickstart("--output", str(out))
    assert again.returncode == 0
    assert again.stdout.count("already finished") >= 6  # task, two datasets, three trainings
    assert len(before) == 7 and before == {path: path.stat().st_mtime_ns for path in results}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sed", "1"], "unknown option '--sed'; the options are --seed N, --full and --output DIR"),
        (["--seed", "one"], "--seed 'one' must be a whole number"),
        (["--seed"], "--seed '' must be a whole number"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(arguments, message):
    result = run_quickstart(*arguments)
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")


def test_a_failed_step_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "positives").mkdir()
    (tmp_path / "positives/mine.txt").touch()
    (tmp_path / "task").symlink_to(os.devnull)
    result = run_quickstart("--output", str(tmp_path))
    assert result.returncode == 2
    log = tmp_path / "logs/task.log"
    assert f"error: this step failed; its complete output is in {log}" in result.stderr
    assert log.read_text().splitlines()[-1] in result.stderr


def test_dynamics_are_read_from_the_run_or_its_latest_checkpoint(tmp_path):
    for step in (9, 10):  # as numbers, not as text, 10 is later than 9
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        entry = {"step": step, "loss": 0.1, "grad_norm": 1.0, "logps/chosen": -0.5, "logps/rejected": -0.7}
        entry["completions/mean_length/chosen"] = 20.0
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": [entry, {"epoch": 1}]}))
    assert [entry["step"] for entry in read_log(tmp_path)] == [10]
    plot_dynamics({"run": tmp_path}, tmp_path / "plots" / "dynamics.png")
    assert (tmp_path / "plots" / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="has no trainer_state.json"):
        read_log(tmp_path / "checkpoint-9" / "nothing")


def test_the_habit_table_needs_answers(tmp_path):
    with pytest.raises(UsageError, match="generations.jsonl: no such file"):
        show_habit.model_counts(tmp_path)
