"""Worker processes for the symbolic stage: started when first needed, kept warm, killed if they take too long.

Model text can make a computer algebra system run for hours or use all memory, and Python cannot always interrupt that.
So `Worker` runs this module as a process, whose `main` answers one request at a time.
"""

import faulthandler
import logging
import os
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from subprocess import DEVNULL
from typing import NamedTuple

from redi.runs.files import cpus

START_LIMIT = 120.0  # seconds for the imports, on a busy machine
# Seconds of processor time for a request, and of wall time until its worker is killed. The worker enforces the first
# limit itself, except inside a single long C call; the second allows for a busy machine.
LIMITS = {False: (2.0, 6.0), True: (1.0, 3.0)}  # by rllm_style; both requests of a response together take under 10 s
HARD_LIMIT = 8.0  # seconds until the watchdog ends the process, in case its parent is gone
MEMORY_LIMIT = 3 << 30  # bytes of address space


class Comparison(NamedTuple):
    """An answer and the reference answers to compare it with. Many samples share one."""

    golds: tuple[str, ...]
    box: str
    rllm_style: bool = False


class OutOfTime(BaseException):
    """Raised when the time is up. Not an `Exception`, because math-verify and sympy swallow those."""


class Worker:
    """A worker process. It ends when its pipe closes, so with its parent at the latest."""

    def __init__(self):
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-m", "redi.evaluation.grading.workers", str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        streams = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, **streams)
        theirs.close()
        self.ready = False

    def ask(self, comparison: Comparison) -> tuple[bool, str]:
        """The verdict and its status. A timeout or a dead worker is a status too; both leave it dead."""
        status = "error"
        with suppress(EOFError, OSError):  # it is dead
            if not self.ready and self.pipe.poll(START_LIMIT):
                self.ready = self.pipe.recv()
            self.pipe.send(comparison)
            if self.ready and self.pipe.poll(LIMITS[comparison.rllm_style][1]):
                return self.pipe.recv()
            status = "timeout"
        self.close()
        return False, status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


_idle: dict[int, list[Worker]] = defaultdict(list)  # by process: a forked child must not use its parent's workers


def symbolic_verdict(comparison: Comparison) -> tuple[bool, str]:
    """A worker's verdict and its status: "ok", or "timeout" or "error" if there is no verdict.

    Safe in threads, which never wait for each other's workers, and in forked children. It takes no longer than
    `LIMITS`, plus 1 to 2 s if a worker is started: at first, and after one was killed.
    """
    idle, worker = _idle[os.getpid()], None
    with suppress(IndexError):  # none is left
        while worker is None or worker.process.poll() is not None:
            worker = idle.pop()
    if worker is None or worker.process.poll() is not None:
        worker = Worker()
    reply = worker.ask(comparison)
    if worker.process.returncode is None and len(idle) < cpus():
        idle.append(worker)
    else:
        worker.close()
    return reply


def _time_is_up(signum, frame) -> None:
    raise OutOfTime


def main() -> None:
    """Answers comparisons until the parent is gone. The first message, True, says that the imports are done."""
    from redi.evaluation.grading.compare import equal
    from redi.evaluation.grading.paper_grader import rllm_equal, zero_difference
    from redi.evaluation.grading.symbolic import same_value

    def verdict(golds: tuple[str, ...], box: str, rllm_style: bool) -> tuple[bool, str]:
        """The limit is on processor time for all reference answers, so a busy machine does not change verdicts."""
        compare, decide = (rllm_equal, zero_difference) if rllm_style else (equal, same_value)
        signal.setitimer(signal.ITIMER_PROF, LIMITS[rllm_style][0])
        try:
            return any(compare(gold, box, decide) for gold in golds), "ok"
        except OutOfTime:
            return False, "timeout"
        except (MemoryError, RecursionError):
            return False, "error"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    pipe = Connection(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable()
    signal.signal(signal.SIGPROF, _time_is_up)
    equal("x+1", "1+x", same_value)  # imports and warms the parser
    with suppress(EOFError, OSError):
        pipe.send(True)
        while True:
            comparison = pipe.recv()
            faulthandler.dump_traceback_later(HARD_LIMIT, exit=True)
            reply = verdict(*comparison)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(reply)


if __name__ == "__main__":
    main()
