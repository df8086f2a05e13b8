"""Worker processes for the symbolic stage: started when first needed, kept warm, killed when they take too long."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time

START_LIMIT = 120.0  # seconds for the imports, on a busy machine
REPLY_LIMIT = 6.0  # seconds; the worker's own limit works except inside a single long C call


class _Worker:
    """One process of `redi.evaluation.symbolic`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redi.evaluation.symbolic"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self.buffer = b""
        self.ready = False

    def ask(self, request: bytes) -> dict:
        """The reply to one request line. A timeout and the worker's death are replies too; it is dead after either."""
        if not self.ready:
            self.ready = self._line(START_LIMIT) == b"ready"
        try:
            self.process.stdin.write(request)
        except BrokenPipeError:  # it died just now
            return self._dead("error")
        line = self._line(REPLY_LIMIT)
        return json.loads(line) if line else self._dead("error" if line == b"" else "timeout")

    def _line(self, seconds: float) -> bytes | None:
        """The next line; None when none came in time, the empty string when the process is gone."""
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
    """Idle workers. A caller takes one, or starts one, so callers never wait for each other."""

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
            if worker.process.poll() is None and len(self.idle) < (os.cpu_count() or 1):
                self.idle.append(worker)
                return
        worker.close()

    def close(self) -> None:
        with self.lock:
            while self.idle:
                self.idle.pop().close()


_pool = _Pool()
atexit.register(_pool.close)


def _forget() -> None:  # a forked child must not talk to its parent's workers
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)


def symbolic_verdict(golds: list[str], answer: str) -> dict:
    """Asks a worker whether `answer` equals any of `golds`. Safe in threads and in forked children.

    Returns:
        `correct`, and `status` ("timeout" or "error") where there is no verdict. It takes at most `REPLY_LIMIT` s,
        apart from the start of a worker: 1 to 2 s, at first and after a worker was killed.
    """
    pool = _pool
    worker = pool.take()
    reply = worker.ask(json.dumps({"golds": golds, "answer": answer}).encode() + b"\n")
    if worker.process.returncode is None:
        pool.give(worker)
    return reply
