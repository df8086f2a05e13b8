"""Worker processes for the symbolic stage: started when first needed, kept warm, killed if they take too long."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from redi.runs.files import cpus

START_LIMIT = 120.0  # seconds for the imports, on a busy machine
# Seconds of processor time for a request, and of wall time until its worker is killed. The worker enforces the first
# limit itself, except inside a single long C call; the second allows for a busy machine.
LIMITS = {False: (2.0, 6.0), True: (1.0, 3.0)}  # by rllm_style; both requests of a response together take under 10 s


class _Worker:
    """One process of `redi.evaluation.grading.symbolic_worker`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redi.evaluation.grading.symbolic_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self.buffer = b""
        self.ready = False

    def ask(self, request: bytes, limit: float) -> dict:
        """The reply to one request line. A timeout or a dead worker is a reply too; both leave it dead."""
        if not self.ready:
            self.ready = self._line(START_LIMIT) == b"ready"
        try:
            self.process.stdin.write(request)
        except BrokenPipeError:  # it has just died
            return self._dead("error")
        line = self._line(limit)
        return json.loads(line) if line else self._dead("error" if line == b"" else "timeout")

    def _line(self, seconds: float) -> bytes | None:
        """The next line; None if none came in time, the empty string if the process is gone."""
        deadline, pipe = time.monotonic() + seconds, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            block = os.read(pipe, 1 << 16)
            if not block:
                return b""
            self.buffer += block
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _dead(self, status: str) -> dict:
        self.close()
        return {"correct": False, "status": status}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class _Pool:
    """Idle workers. A caller takes one or starts a new one, so callers never wait for each other."""

    def __init__(self):
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []

    def take(self) -> _Worker:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.close()
        return _Worker()

    def give(self, worker: _Worker) -> None:
        with self.lock:
            if worker.process.poll() is None and len(self.idle) < cpus():
                self.idle.append(worker)
                return
        worker.close()

    def close(self) -> None:
        with self.lock:
            while self.idle:
                self.idle.pop().close()


_pool = _Pool()
atexit.register(_pool.close)


def _forget() -> None:  # a forked child must not use its parent's workers
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)


def symbolic_verdict(golds: Sequence[str], answer: str, rllm_style: bool = False) -> dict:
    """Asks a worker whether `answer` equals any of `golds`. Safe in threads and in forked children.

    Args:
        golds: the reference answers.
        answer: the content of the box.
        rllm_style: compare with `rllm_equal` instead of `equal`.

    Returns:
        `correct`, and `status` ("timeout" or "error") if there is no verdict. It takes no longer than `LIMITS`, plus
        1 to 2 s if a worker must be started: at first, and after one was killed.
    """
    pool = _pool
    worker = pool.take()
    cpu_limit, limit = LIMITS[rllm_style]
    request = {"golds": list(golds), "answer": answer, "rllm_style": rllm_style, "limit": cpu_limit}
    reply = worker.ask(json.dumps(request).encode() + b"\n", limit)
    if worker.process.returncode is None:
        pool.give(worker)
    return reply
