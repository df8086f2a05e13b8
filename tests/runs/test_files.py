"""Output folders that are complete or absent, and fingerprints."""

import hashlib

import pytest

from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, new_folder


def test_new_folder_appears_only_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_failed_body_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_overwrite(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with (
        pytest.raises(UsageError, match="exists; choose another folder, or pass --overwrite"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "old").exists()
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_fingerprints_are_sha256_of_content(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    expected = hashlib.sha256(b"hello").hexdigest()
    assert fingerprint(tmp_path / "a.txt") == expected
    (tmp_path / "manifest.json").write_text("{}")  # left out: it holds times
    (tmp_path / "README.md").write_text("# Scores")  # left out: scores are added to a model's card
    (tmp_path / "folder").mkdir()
    assert fingerprint(tmp_path) == hashlib.sha256(f"a.txt {expected}\n".encode()).hexdigest()
    assert fingerprint("open-r1/OpenR1-Math-Raw") == "hub:open-r1/OpenR1-Math-Raw"
