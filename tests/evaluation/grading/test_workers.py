"""The worker processes: killed ones are replaced, threads share them, and a job starts no more than it has cores."""

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context

import psutil
import pytest
from helpers.graded import boxed

from redi.evaluation.grading import workers
from redi.evaluation.grading.verdict import grade_many, grade_response
from redi.runs.files import cpus


def idle_workers() -> list[workers.Worker]:
    return workers._idle[os.getpid()]


def close_workers() -> None:
    while idle_workers():
        idle_workers().pop().close()


def test_a_killed_worker_is_an_error_or_replaced_and_the_next_call_works():
    assert grade_response(boxed("(x+1)^2"), "x^2+2x+1").correct
    for worker in idle_workers():
        worker.process.kill()
        worker.process.wait()
    assert grade_response(boxed("(x+2)^2"), "x^2+4x+4").correct


def test_threads_grade_at_the_same_time():
    verdicts = {}

    def grade(n):
        verdicts[n] = grade_response(boxed(f"(x+{n})^2"), f"x^2+{2 * n}x+{n * n}").correct

    threads = [threading.Thread(target=grade, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(1, 7), True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no processor affinity")
def test_there_are_as_many_workers_as_cores_of_the_job_not_of_the_machine():
    cores = os.sched_getaffinity(0)
    close_workers()
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert cpus() == 1
        grades = grade_many([boxed(f"x^2 + {n} x") for n in range(4)], [f"x(x + {n})" for n in range(4)])
        assert [grade.correct for grade in grades] == [True] * 4
        assert len(idle_workers()) == 1 and _symbolic_processes() == 1
    finally:
        os.sched_setaffinity(0, cores)
        close_workers()
    assert cpus() == len(cores)


def _symbolic_processes() -> int:
    children = psutil.Process().children()
    return sum("redi.evaluation.grading.workers" in child.cmdline() for child in children)


def test_workers_end_with_a_parent_that_is_killed():
    script = "import os, time; from redi.evaluation.grading.verdict import grade_response\n"
    script += "grade_response('</think> \\\\boxed{(x+1)^2}', 'x^2+2x+1'); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        (worker,) = psutil.Process(parent.pid).children()
        parent.kill()
    worker.wait(timeout=20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_forked_child_uses_its_own_workers():
    assert grade_response(boxed("(x+1)^2"), "x^2+2x+1").correct
    before = [worker.process.pid for worker in idle_workers()]
    with get_context("fork").Pool(2) as pool:
        grades = pool.starmap(grade_response, [(boxed(f"(x+{n})^2"), f"x^2+{2 * n}x+{n * n}") for n in range(9, 13)])
    assert all(grade.correct for grade in grades)
    assert [worker.process.pid for worker in idle_workers()] == before
    assert grade_response(boxed("(x+8)^2"), "x^2+16x+64").correct


def test_a_hung_worker_is_killed_and_replaced(monkeypatch):
    """A stopped process stands in for one that hangs in a C call, where its own time limit has no effect."""
    monkeypatch.setitem(workers.LIMITS, False, (2.0, 1.0))
    assert grade_response(boxed("(x+1)^2"), "x^2+2x+1").correct
    for worker in idle_workers():
        worker.process.send_signal(signal.SIGSTOP)
    hung = idle_workers()[-1].process
    assert grade_response(boxed("(x+6)^2"), "x^2+12x+36").status == "timeout"
    assert hung.returncode == -signal.SIGKILL and hung.pid not in [w.process.pid for w in idle_workers()]
    close_workers()
    assert grade_response(boxed("(x+7)^2"), "x^2+14x+49").correct
