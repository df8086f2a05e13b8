"""Manifests identify a run by its options and inputs."""

import json

from redi.runs.manifest import is_finished, read_manifest, write_manifest


def test_a_manifest_identifies_options_and_inputs(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("one")
    out.mkdir()
    assert not is_finished(out, {"seed": 1}, {"input": source})
    write_manifest(out, config={"seed": 1}, inputs={"input": source}, counts={"rows": 3}, seed=1)
    assert read_manifest(out)["counts"] == {"rows": 3}
    assert is_finished(out, {"seed": 1}, {"input": source})
    assert not is_finished(out, {"seed": 2}, {"input": source})
    source.write_text("two")
    assert not is_finished(out, {"seed": 1}, {"input": source})


def test_a_foreign_manifest_is_not_taken_for_a_finished_run(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "something else"}))
    assert not is_finished(tmp_path, {}, {"input": tmp_path})
