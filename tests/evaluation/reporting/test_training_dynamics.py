"""Training dynamics: the points of each panel, and the commands that draw them."""

import json

import plot_training
import pytest
from helpers.graded import write_graded

from redi.evaluation.reporting.training_dynamics import evaluated_panels, logged_panels, reproduce_dynamics
from redi.runs.errors import UsageError


def write_run(folder, **logged) -> None:
    entries = [
        {"step": step, "loss": 0.1, "grad_norm": 2.0, "completions/mean_length/chosen": 9.0}
        | {"logps/chosen": -0.1 * step, "logps/rejected": -0.2 * step}
        | logged
        for step in (1, 2)
    ]
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": entries}))


def test_training_dynamics(tmp_path):
    run = tmp_path / "run"
    write_run(run, update_norm=0.5)
    (tmp_path / "evaluation").mkdir()
    with pytest.raises(UsageError, match="no graded checkpoint in"):
        evaluated_panels({"run": run}, "math500")
    write_graded(tmp_path / "evaluation" / "run_checkpoint-10")
    write_graded(tmp_path / "evaluation" / "run_checkpoint-9", [[1] * 4] * 5)
    write_graded(tmp_path / "evaluation" / "run_checkpoint-10_retry")  # not a checkpoint
    panels = evaluated_panels({"run": run}, "math500")
    assert panels["math500 pass@1 (%)"]["run"] == [(9, 100.0), (10, pytest.approx(55.0))]
    assert panels["mean tokens a response"]["run"] == [(9, 24.0), (10, 24.0)]
    assert panels['"Wait" a response']["run"][0] == (9, 2.0)
    assert panels['"Wait" per 1,000 tokens']["run"][0] == (9, pytest.approx(1000 * 2 / 24))
    with pytest.raises(UsageError, match="--benchmark aime24: .* has math500"):
        evaluated_panels({"run": run}, "aime24")

    reproduce_dynamics([run], tmp_path / "out", "math500")
    numbers = json.loads((tmp_path / "out" / "training_dynamics.json").read_text())
    assert list(numbers)[:4] == [
        "math500 pass@1 (%)",
        "chosen LogPS (nats per token)",
        "rejected LogPS (nats per token)",
        "update norm",
    ]
    assert numbers["update norm"]["run"] == [[1, 0.5], [2, 0.5]]
    assert (tmp_path / "out" / "training_dynamics.png").read_bytes().startswith(b"\x89PNG")

    write_run(tmp_path / "other")  # without update_norm: the gradient norm for all
    assert "gradient norm, before clipping" in logged_panels({"a": run, "b": tmp_path / "other"})
    plot_training.main([str(run), str(tmp_path / "other"), "--output", str(tmp_path / "new" / "plot.png")])
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
