"""User errors: one line and exit code 2."""

import errno
import json
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from redi.runs.errors import UsageError, entry_point


def test_user_errors_are_one_line_and_exit_code_2(capsys):
    @entry_point
    def main(argv):
        raise UsageError("--n 0\nis too small")

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --n 0 is too small\n"


def test_what_checks_options_does_not_import_torch():
    modules = ["errors", "cli", "files", "manifest", "lock", "jsonl", "markdown", "recipe", "launch"]
    code = f"import sys, {', '.join(f'redi.runs.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("cannot save")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "No space left on device (runs/x): make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded: make room"),
        (wrapped(OSError(errno.EROFS, "Read-only file system")), "Read-only file system: make room"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on device: make room"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "No space left on device",
        ),
    ],
)
def test_a_full_disk_is_one_line_and_exit_code_2(capsys, error, line):
    @entry_point
    def main(argv):
        raise error

    with pytest.raises(SystemExit, match="2"):
        main([])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}") and said.endswith("and run the same command again")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("CUDA error"), OSError("text")])
def test_other_errors_are_raised(error):
    @entry_point
    def main(argv):
        raise error

    with pytest.raises(type(error)) as caught:
        main([])
    assert caught.value is error


@pytest.mark.parametrize("launched", [False, True])
def test_variables_of_kubernetes_and_mpi_do_not_silence_a_process_that_is_alone(monkeypatch, capsys, launched):
    ranks = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "nowhere", "PMI_SIZE": "8", "PMIX_RANK": "3"}
    ranks |= {"OMPI_COMM_WORLD_SIZE": "8", "MPI_LOCALRANKID": "1", "MV2_COMM_WORLD_SIZE": "8"}
    for name, value in (ranks | ({"LOCAL_RANK": "1"} if launched else {})).items():
        monkeypatch.setenv(name, value)

    @entry_point
    def main(argv):
        raise UsageError(json.dumps(sorted(ranks.keys() & os.environ.keys())))

    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err == ("" if launched else "error: []\n")
