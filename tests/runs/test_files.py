"""Output folders that are complete or absent, and fingerprints."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from redi.runs.errors import UsageError
from redi.runs.files import fingerprint, new_folder, reach_hub


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


def write_folder(path, text, **options):
    with new_folder(path, **options) as folder:
        (folder / "file").write_text(text)


def test_places_that_cannot_be_replaced_are_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "a file").write_text("precious")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(tmp_path / "mounted"))
    (tmp_path / "bound").mkdir()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 /x {tmp_path / 'bound'} rw,noatime - ext3 /dev/root rw\n")
    monkeypatch.setattr("redi.runs.files.MOUNTS", mounts)
    for output, message in (
        (".", "is the working folder"),
        ("", "is the working folder"),
        ("..", "is the working folder or holds it"),
        (tmp_path, "is the working folder or holds it"),
        (tmp_path / "a file", "is a file"),
        (tmp_path / "mounted", "is a mount point"),
        (tmp_path / "bound", "is a mount point"),
    ):
        with pytest.raises(UsageError, match=message), new_folder(Path(output), overwrite=True):
            raise AssertionError("the work must not begin")
    assert (tmp_path / "a file").read_text() == "precious"


def test_an_input_in_the_output_is_refused(tmp_path, monkeypatch):
    (tmp_path / "out" / "raw").mkdir(parents=True)
    for source in ("out/raw", Path("out/not made yet"), "out"):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match="holds the input"):
            write_folder(Path("out"), "x", overwrite=True, inputs=[source])
    write_folder(Path("new"), "x", inputs=["new/hub-id", "out/raw"])
    assert (tmp_path / "out" / "raw").is_dir()


def test_a_link_stays_and_the_folder_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk" / "old").mkdir(parents=True)
    for target in ("disk", "not made yet"):
        (tmp_path / "link").symlink_to(tmp_path / target)
        write_folder(tmp_path / "link", "new", overwrite=True)
        assert (tmp_path / "link").is_symlink()
        assert [file.name for file in (tmp_path / target).iterdir()] == ["file"]
        (tmp_path / "link").unlink()


def test_the_old_folder_survives_a_failed_replacement(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", "old")
    rename = Path.rename

    def busy(self, target):
        if self.name == ".out.tmp" and Path(target).name == "out":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(UsageError, match="cannot be replaced: .*busy; the result is in") as raised:
        write_folder(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert (Path(str(raised.value).rpartition(" ")[2]) / "file").read_text() == "new"


def test_what_a_killed_process_left_is_cleaned_up(tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "file").write_text("old")  # killed after moving it aside, before the new one was in place
    with pytest.raises(UsageError, match="exists"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    write_folder(tmp_path / "out", "new", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_writer_is_refused_and_does_not_replace_the_first(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("first")
        with pytest.raises(UsageError, match="is being written by process"):
            write_folder(tmp_path / "out", "second", overwrite=True)
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_nothing(tmp_path, number):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom redi.runs.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x')\n    print('ready', flush=True)\n    time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) in (128 + number, 130, -number)
    assert list(tmp_path.iterdir()) == []


def test_the_hub_is_tried_once_and_its_cache_used_without_it(tmp_path, monkeypatch):
    from huggingface_hub import constants

    tried = []
    monkeypatch.setattr("huggingface_hub.get_session", lambda: tried.append(1) or FailingSession())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for kind in ("model", "dataset"):
        with pytest.raises(UsageError, match="x=owner/name is not a folder here, and not in the cache of the Hub"):
            reach_hub("owner/name@main", "x=owner/name", kind)
        (tmp_path / f"{kind}s--owner--name").mkdir()
        reach_hub("owner/name@main", "x=owner/name", kind)
    assert len(tried) == 1 and os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE


class FailingSession:
    def head(self, address: str, timeout: float) -> None:
        raise OSError("no route to host")
