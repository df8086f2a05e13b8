"""A run's folder: what a run may write into, and the length of the run that left a checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from redi.runs.checkpoints import planned_steps, refuse_foreign_folder
from redi.runs.errors import UsageError


def refused(folder: Path, **inputs: Path) -> str:
    with pytest.raises(UsageError) as caught:
        refuse_foreign_folder(folder, {name: str(path) for name, path in inputs.items()})
    return str(caught.value)


def test_the_folder_of_an_input_is_not_overwritten(tmp_path):
    model, link = tmp_path / "model", tmp_path / "link"
    model.mkdir()
    link.symlink_to(model)
    for folder in (model, link, tmp_path / "x" / ".." / "model"):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert f"output_dir={folder} is the model that the run starts from" in refused(folder, model=model)
    (model / "manifest.json").write_text("{}")  # also where the model is an earlier run
    assert "is the dataset that the run starts from" in refused(model, model=tmp_path / "other", dataset=model)


def test_files_of_the_user_are_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("my notes")
    assert "holds files that are not a run's, such as README.md; choose another output_dir" in refused(tmp_path)
    assert "is a file; choose another output_dir" in refused(tmp_path / "README.md")


@pytest.mark.parametrize("name", ["manifest.json", "started.json", "checkpoint-5/x"])
def test_a_run_resumes_in_its_folder(tmp_path, name):
    marker = tmp_path / name
    marker.parent.mkdir(exist_ok=True)
    marker.write_text("")
    (tmp_path / "model.safetensors").write_text("")
    refuse_foreign_folder(tmp_path, {"model": "owner/name"})
    shutil.rmtree(marker.parent) if marker.parent != tmp_path else marker.unlink()
    assert "holds files that are not a run's, such as model.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("name", [".cache/x", "train.log", "log.txt"])
def test_hidden_files_and_logs_are_ignored(tmp_path, name):
    refuse_foreign_folder(tmp_path / "new", {"model": "owner/name"})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    refuse_foreign_folder(tmp_path, {"model": "owner/name"})
    (tmp_path / "model.safetensors").write_text("")
    assert "holds files that are not a run's, such as model.safetensors" in refused(tmp_path)


def test_the_planned_length_is_that_of_the_checkpoint(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"max_steps": 80, "global_step": 9}))
    assert planned_steps(tmp_path) == 80
