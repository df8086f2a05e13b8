"""The lock of a folder: one owner at a time, and the dead do not count."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from redi.runs import lock
from redi.runs.errors import UsageError
from redi.runs.lock import folder_lock, lock_owner


@pytest.mark.parametrize(("inside", "name"), [(False, ".out.lock"), (True, "out/.lock")])
def test_a_second_owner_is_refused_and_the_file_goes_with_the_first(tmp_path, inside, name):
    (tmp_path / "out").mkdir()
    with folder_lock(tmp_path / "out", inside=inside):
        assert json.loads((tmp_path / name).read_text())["pid"] == os.getpid()
        with (
            pytest.raises(
                UsageError, match=f"is being written by process {os.getpid()} on .* Its lock is {tmp_path / name}"
            ),
            folder_lock(tmp_path / "out", inside=inside),
        ):
            pass
        assert (tmp_path / name).exists()
    assert not (tmp_path / name).exists()


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("number_is_used_again", [False, True])
def test_a_dead_owner_is_taken_over(tmp_path, number_is_used_again):
    """In a container the next process often has the number of the one before, and may start in the same second."""
    pid = os.getpid() if number_is_used_again else dead_process()
    owner = lock._place() | {"pid": pid, "started": psutil.Process().create_time() - 0.5}
    (tmp_path / ".out.lock").write_text(json.dumps(owner))
    with folder_lock(tmp_path / "out"):
        assert json.loads((tmp_path / ".out.lock").read_text())["started"] > owner["started"]
    assert list(tmp_path.iterdir()) == []


IN_CONTAINER = lock._place() | {"namespace": "pid:[1]", "pid": 1, "started": psutil.Process(1).create_time()}
ELSEWHERE = json.dumps({"host": "elsewhere", "pid": 4_000_000, "started": 0})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.5)


@pytest.mark.parametrize("text", ["", "{", "[]", ELSEWHERE, json.dumps(IN_CONTAINER)])
def test_a_silent_owner_on_another_host_or_an_unreadable_one_is_taken_over(tmp_path, quick, text):
    """A job that is requeued on another node, and a container with another name, find such a lock."""
    (tmp_path / ".out.lock").write_text(text)
    assert lock_owner(tmp_path / "out") is None
    with folder_lock(tmp_path / "out"):
        assert json.loads((tmp_path / ".out.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_host_renews_its_lock(tmp_path, quick, monkeypatch):
    with folder_lock(tmp_path / "out"):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        assert lock_owner(tmp_path / "out").startswith(f"process {os.getpid()} on ")
        with pytest.raises(UsageError, match="is being written by process"), folder_lock(tmp_path / "out"):
            pass
    assert lock_owner(tmp_path / "out") is None


def test_a_lock_that_another_run_has_taken_is_left_alone(tmp_path):
    with folder_lock(tmp_path / "out"):
        (tmp_path / ".out.lock").write_text(ELSEWHERE)  # this process was suspended for long
    assert (tmp_path / ".out.lock").read_text() == ELSEWHERE


def test_of_many_processes_that_take_over_at_once_one_succeeds(tmp_path):
    owner = lock._place() | {"pid": dead_process(), "started": 0}
    (tmp_path / ".out.lock").write_text(json.dumps(owner))
    script = (
        "import sys, time\nfrom redi.runs.lock import folder_lock\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "with folder_lock(sys.argv[1]):\n    print('held')\n    time.sleep(2)"
    )
    start = str(time.time() + 2)
    command = [sys.executable, "-c", script, str(tmp_path / "out"), start]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    results = [(process.communicate()[0], process.returncode) for process in started]
    assert sorted(results, key=str).count(("held\n", 0)) == 1, results
    assert list(tmp_path.iterdir()) == []
