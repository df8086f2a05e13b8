"""Ctrl-C in a terminal, which signals its whole foreground process group: train.sh with one process and with two."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.paths import REPOSITORY

from redi.runs.checkpoints import last_complete_checkpoint


class Terminal:
    """A pseudo-terminal whose foreground process is a command."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.outside, inside = os.openpty()
        self.process = subprocess.Popen(command, env=environment, preexec_fn=lambda: os.login_tty(inside))
        os.close(inside)
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self.outside, 4096):
                self.said += data.decode(errors="replace")
        except OSError:  # the process has ended
            pass

    def wait_for(self, pattern: str) -> None:
        deadline = time.time() + 90
        while not re.search(pattern, self.said, flags=re.MULTILINE):
            assert self.process.poll() is None and time.time() < deadline, self.said[-3000:]
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        os.write(self.outside, b"\x03")


@contextmanager
def training(processes: int, model_path: str, rows_file: str, folder: Path) -> Iterator[Terminal]:
    """train.sh in a terminal; what is left of it is killed in the end."""
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "NUM_PROCESSES": str(processes)}
    if processes > 1:
        settings = yaml.safe_load((REPOSITORY / "configs/accelerate/ddp.yaml").read_text()) | {"mixed_precision": "no"}
        (folder / "ddp.yaml").write_text(yaml.safe_dump(settings))
        environment["ACCELERATE_CONFIG"] = str(folder / "ddp.yaml")
        environment["PYTHONPATH"] = f"{REPOSITORY}/tests/helpers/no_gpu:{REPOSITORY}"
    command = ["bash", str(REPOSITORY / "recipes/redi/quickstart/train.sh"), "--model_name_or_path", model_path]
    command += ["--dataset_name", rows_file, "--output_dir", str(folder / "out"), "--max_steps", "100000"]
    command += ["--per_device_train_batch_size", "4", "--save_strategy", "no", "--logging_steps", "1"]
    terminal = Terminal(command, environment)
    family = [terminal.process]
    try:
        terminal.wait_for(r"^ *\d+/100000 ")
        family += (root := psutil.Process(terminal.process.pid)).children(recursive=True)
        assert len(root.children(recursive=True)) > processes
        yield terminal
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_the_same_command_resumes(processes, model_path, rows_file, tmp_path):
    with training(processes, model_path, rows_file, tmp_path) as terminal:
        terminal.press_ctrl_c()
        assert terminal.process.wait(60) == 130
    assert "Traceback" not in terminal.said and "failed" not in terminal.said
    assert terminal.said.count("Ctrl-C: finishing this step, then saving") == 1
    (step,) = re.findall(r"stopped by Ctrl-C after step (\d+); the same command resumes", terminal.said)
    assert last_complete_checkpoint(tmp_path / "out") == (tmp_path / "out" / f"checkpoint-{step}", [])
    assert not (tmp_path / "out" / ".lock").exists()
    with training(processes, model_path, rows_file, tmp_path) as terminal_2:
        terminal_2.wait_for(r"resuming from .*checkpoint-")
        terminal_2.press_ctrl_c()
        assert terminal_2.process.wait(60) == 130


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_ends_every_process_at_once(processes, model_path, rows_file, tmp_path):
    with training(processes, model_path, rows_file, tmp_path) as terminal:
        children = psutil.Process(terminal.process.pid).children(recursive=True)
        for child in children:
            child.suspend()  # a step that does not end
        terminal.press_ctrl_c()
        time.sleep(0.5)
        terminal.press_ctrl_c()
        assert terminal.process.wait(10) == 130
        assert not psutil.wait_procs(children, timeout=10)[1]
    assert last_complete_checkpoint(tmp_path / "out") == (None, [])
