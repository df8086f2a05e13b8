"""Training dynamics: the points of each panel, and the commands that draw them."""

import json

import plot_training
import pytest
from helpers.graded import write_graded

from redi.evaluation.reporting.training_dynamics import (
    evaluated_panels,
    evaluation_folders,
    logged_panels,
    reproduce_dynamics,
)
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
    assert evaluated_panels({"run": run}, "math500", "retry")["mean tokens a response"]["run"] == [(10, 24.0)]
    with pytest.raises(UsageError, match="--suffix quick: .*'s checkpoints were evaluated with , retry"):
        evaluated_panels({"run": run}, "math500", "quick")
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


def test_checkpoints_that_were_evaluated_with_other_options_are_found(tmp_path):
    for step in (5, 20):
        write_graded(
            tmp_path / "evaluation" / f"run_checkpoint-{step}_quick", benchmarks=["math500", "x"][: step // 5]
        )
    assert [step for step, _ in evaluation_folders(tmp_path / "run")] == [5, 20]
    panels = evaluated_panels({"run": tmp_path / "run"}, "math500")
    assert [step for step, _ in panels["mean tokens a response"]["run"]] == [5, 20]
    write_graded(tmp_path / "evaluation" / "run_checkpoint-5_temperature-1.0")
    with pytest.raises(UsageError, match="--suffix is needed: .* were evaluated with quick, temperature-1.0"):
        evaluation_folders(tmp_path / "run")
    assert [step for step, _ in evaluation_folders(tmp_path / "run", "temperature-1.0")] == [5]
    write_graded(tmp_path / "evaluation" / "run_checkpoint-10", gold="2")
    write_graded(tmp_path / "evaluation" / "run_checkpoint-9")
    with pytest.raises(UsageError, match="the reference answer of 'p0' differs"):
        evaluated_panels({"run": tmp_path / "run"}, "math500")
