"""The quickstart itself, as a user runs it: the whole flow on the CPU, its claim, and that a rerun does nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import quickstart
import show_habit
from helpers.paths import REPOSITORY

from redi.evaluation.reporting.training_dynamics import plot_dynamics, read_log
from redi.runs.errors import UsageError
from redi.runs.manifest import write_manifest


def run_quickstart(folder: Path) -> str:
    command = [sys.executable, str(REPOSITORY / "scripts/quickstart.py"), "--output", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_redi_is_above_sft_and_above_more_sft_and_a_rerun_does_nothing(tmp_path):
    run_quickstart(tmp_path / "out")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/report/table.json").read_text())["rows"]}
    redi = rows["redi"]["benchmarks"]["digits"]
    assert redi["differences"]["sft"]["low"] > 0.03  # 3 points at the lower end of the paired 95 % interval
    assert redi["differences"]["sft_more"]["low"] > 0.03
    assert rows["base"]["benchmarks"]["digits"]["pass_at_1"] < 0.05
    for name in ("table.md", "pass_at_1.png", "training_dynamics.png", "habit.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0

    again = run_quickstart(tmp_path / "out")
    assert again.count("finished before") == 17
    assert "done in" not in again


def stage(folder: Path, command: list[str], reads: tuple[Path, ...] = ()) -> quickstart.Stage:
    return quickstart.Stage("name", "title", command, folder / "out", reads)


def test_a_stage_runs_again_when_its_command_or_its_input_changes(tmp_path, capsys):
    done: dict = {}
    (tmp_path / "in").mkdir()
    write_manifest(tmp_path / "in", config={}, inputs={}, counts={"rows": 1})
    command = [sys.executable, "-c", f"import pathlib; pathlib.Path('{tmp_path}/out').mkdir()"]

    def run(command: list[str]) -> str:
        quickstart.run_stage(stage(tmp_path, command, (tmp_path / "in",)), 1, tmp_path, done)
        return capsys.readouterr().out

    assert "done in" in run(command)
    assert "finished before" in run(command)
    assert "done in" in run([*command, "another"])  # removes the output first, or mkdir would fail
    write_manifest(tmp_path / "in", config={}, inputs={}, counts={"rows": 2})
    assert "done in" in run([*command, "another"])


def test_a_failed_stage_shows_its_log_and_is_not_taken_for_done(tmp_path, capsys):
    done: dict = {}
    with pytest.raises(SystemExit) as caught:
        quickstart.run_stage(stage(tmp_path, [sys.executable, "-c", "raise SystemExit('no luck')"]), 1, tmp_path, done)
    assert caught.value.code == 1
    assert "no luck" in capsys.readouterr().err
    assert not done["name"]["finished"]


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


def test_the_habit_table_wants_generations(tmp_path):
    with pytest.raises(UsageError, match="holds no generations.jsonl"):
        show_habit.model_counts(tmp_path)
