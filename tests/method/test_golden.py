"""Loss and gradient norm of 20 recorded steps: every split of the global batch of 8 takes them."""

import json
from importlib.metadata import version

import pytest
import torch
from helpers.golden import FILE, KEYS, SPLITS, STAGES, main, trajectory

from redi.checks import CheckedTrainer
from redi.engine.batching import StepDataset

RECORDED = json.loads(FILE.read_text())


def differs(found: dict[str, list[float]], stage: str) -> list[str]:
    """Where a trajectory leaves the recorded one: `loss of step 3: 1.25, recorded 1.26`."""
    recorded = RECORDED["trajectories"][stage]
    assert {key: len(values) for key, values in found.items()} == dict.fromkeys(KEYS, 20)
    return [
        f"{key} of step {step}: {value}, recorded {expected}"
        for key in KEYS
        for step, (value, expected) in enumerate(zip(found[key], recorded[key], strict=True), 1)
        if value != pytest.approx(expected, rel=5e-4, abs=5e-5)
    ]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("split", [pytest.param(x, marks=pytest.mark.slow if "ranks" in x else ()) for x in SPLITS])
def test_the_recorded_steps_are_taken(model_path, rows_file, tmp_path, stage, split):
    installed = {name: version(name) for name in RECORDED["versions"]}
    found = differs(trajectory(stage, split, model_path, rows_file, tmp_path / "out"), stage)
    assert not found, f"recorded with {RECORDED['versions']}, installed are {installed}"


def not_divided(self, model, inputs, num_items_in_batch=None):
    """The losses of the micro-batches are added up."""
    self.current_gradient_accumulation_steps = 1
    return super(CheckedTrainer, self).training_step(model, inputs, num_items_in_batch)


def of_its_own_traces(self, traces, rows, original=StepDataset._micro_batch):
    """A micro-batch is averaged over its own problems, not over those of the global batch."""
    batch = original(self, traces, rows)
    batch["coefficients"] *= len(rows) / len({trace.problem for trace in traces}) / self.num_micro_batches
    return batch


def per_micro_batch(self, traces, rows, original=StepDataset._micro_batch):
    """The tokens of each micro-batch are averaged, then the micro-batches: the well-known bug of accumulation."""
    batch = original(self, traces, rows)
    batch["coefficients"] = torch.full_like(batch["coefficients"], -1 / len(batch["targets"]) / self.num_micro_batches)
    return batch


@pytest.mark.parametrize(
    "stage, place, bug",
    [
        ("sft", (StepDataset, "_micro_batch"), per_micro_batch),
        ("dpo", (CheckedTrainer, "training_step"), not_divided),
        ("simpo", (CheckedTrainer, "training_step"), not_divided),
        ("redi", (StepDataset, "_micro_batch"), of_its_own_traces),
    ],
)
def test_a_bug_in_accumulation_leaves_them(model_path, rows_file, tmp_path, monkeypatch, stage, place, bug):
    monkeypatch.setattr(*place, bug)
    assert differs(trajectory(stage, "1x8", model_path, rows_file, tmp_path / "out"), stage)


def test_recording_needs_a_reason():
    before = FILE.read_bytes()
    with pytest.raises(SystemExit, match="give the reason"):
        main([])
    assert FILE.read_bytes() == before
