"""Manifests identify a run by its options and inputs."""

import json
import shutil
import subprocess
import sys

import pytest
from helpers.paths import REPOSITORY

from redi.runs.errors import UsageError
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


@pytest.mark.parametrize("damage", ["empty", "cut", "removed"])
def test_a_folder_with_a_damaged_file_is_not_finished(tmp_path, damage):
    shard = tmp_path / "sft" / "train-00000-of-00001.parquet"
    shard.parent.mkdir()
    shard.write_bytes(b"PAR1 rows PAR1")
    write_manifest(tmp_path, config={}, inputs={}, counts={})
    (tmp_path / "README.md").write_text("scores that were added later")
    assert is_finished(tmp_path, {}, {})
    shard.unlink() if damage == "removed" else shard.write_bytes(b"" if damage == "empty" else b"PAR1 rows")
    assert not is_finished(tmp_path, {}, {})


GOOD = {"config": {}, "inputs": {"corpus": {"path": "raw", "sha256": "0"}}, "counts": {"rows": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(GOOD)[:-5], "is not readable JSON"),
        ("", "is not readable JSON"),
        (b"\xff{}", "is not readable JSON"),
        ("[1]", "is not a JSON object but list"),
        (json.dumps({"name": "another program's"}), "has no 'config'"),
        (json.dumps(GOOD | {"counts": 3}), "'counts' is 3, of the wrong type"),
        (json.dumps(GOOD | {"counts": {"rows": "3"}}), "'counts.rows' is \"3\", of the wrong type"),
        (json.dumps(GOOD | {"inputs": None}), "has no 'inputs'"),
        (json.dumps(GOOD | {"inputs": {"corpus": "raw"}}), "'inputs.corpus' has no path and sha256"),
    ],
)
def test_a_broken_manifest_is_one_line_with_its_name(tmp_path, text, message):
    path = tmp_path / "manifest.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        is_finished(tmp_path, {}, {})
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_entries_that_a_command_reads_are_required(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"counts": {}}))
    assert read_manifest(tmp_path) == {"counts": {}}
    with pytest.raises(UsageError, match="has no 'counts.rows'"):
        read_manifest(tmp_path, "counts.rows")


def test_the_revision_is_of_this_checkout_and_not_of_a_repository_around_it(tmp_path):
    package = tmp_path / "vendor" / "redi" / "runs"
    package.mkdir(parents=True)
    shutil.copy(REPOSITORY / "redi" / "__init__.py", package.parent)
    shutil.copytree(REPOSITORY / "redi" / "runs", package, dirs_exist_ok=True)
    commit = ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "a"]
    for folder, revisions in ((tmp_path, 0), (tmp_path / "vendor", 1)):
        for arguments in (["init", "-q"], ["add", "."], commit):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        command = [sys.executable, "-c", "from redi.runs.manifest import git_revision; print(git_revision() or '')"]
        result = subprocess.run(command, cwd=tmp_path / "vendor", capture_output=True, text=True, check=True)
        assert len(result.stdout.split()) == revisions
