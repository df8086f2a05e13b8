"""Worker processes for the symbolic stage: started when first needed, kept warm, killed if they take too long."""

import os
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from multiprocessing import Pipe
from subprocess import DEVNULL
from typing import NamedTuple

from redi.runs.files import cpus

START_LIMIT = 120.0  # seconds for the imports, on a busy machine
# Seconds of processor time for a request, and of wall time until its worker is killed. The worker enforces the first
# limit itself, except inside a single long C call; the second allows for a busy machine.
LIMITS = {False: (2.0, 6.0), True: (1.0, 3.0)}  # by rllm_style; both requests of a response together take under 10 s


class Comparison(NamedTuple):
    """An answer and the reference answers to compare it with. Many samples share one."""

    golds: tuple[str, ...]
    box: str
    rllm_style: bool = False


class Worker:
    """One process of `symbolic_worker.py`, which ends when its pipe closes, so with its parent at the latest."""

    def __init__(self):
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-m", "redi.evaluation.grading.symbolic_worker", str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        streams = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, **streams)
        theirs.close()
        self.ready = False

    def ask(self, request: dict, limit: float) -> dict:
        """The reply to a request. A timeout or a dead worker is a reply too; both leave it dead."""
        status = "error"
        with suppress(EOFError, OSError):  # it is dead
            if not self.ready and self.pipe.poll(START_LIMIT):
                self.ready = self.pipe.recv()
            self.pipe.send(request)
            if self.ready and self.pipe.poll(limit):
                return self.pipe.recv()
            status = "timeout"
        self.close()
        return {"correct": False, "status": status}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


_idle: dict[int, list[Worker]] = defaultdict(list)  # by process: a forked child must not use its parent's workers


def _take(idle: list[Worker]) -> Worker:
    """An idle worker or a new one, so callers never wait for each other."""
    with suppress(IndexError):  # none is left
        while True:
            worker = idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.close()
    return Worker()


def symbolic_verdict(comparison: Comparison) -> dict:
    """A worker's verdict, `correct`, and `status` ("timeout" or "error") if there is none.

    Safe in threads and in forked children. It takes no longer than `LIMITS`, plus 1 to 2 s if a worker is started:
    at first, and after one was killed.
    """
    idle = _idle[os.getpid()]
    worker = _take(idle)
    cpu_limit, limit = LIMITS[comparison.rllm_style]
    reply = worker.ask(comparison._asdict() | {"limit": cpu_limit}, limit)
    if worker.process.returncode is None and len(idle) < cpus():
        idle.append(worker)
    else:
        worker.close()
    return reply
