"""The worker processes: killed ones are replaced, threads share them, and a job starts no more than it has cores."""

import os
import threading

import psutil
import pytest
from helpers.graded import boxed

from redi.evaluation.grading import worker_pool as workers
from redi.evaluation.grading.verdict import grade_many, grade_response
from redi.runs.files import cpus


def test_a_killed_worker_is_an_error_or_replaced_and_the_next_call_works():
    assert grade_response(boxed("(x+1)^2"), "x^2+2x+1").correct
    for worker in workers._pool.idle:
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
    workers._pool.close()
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert cpus() == 1
        grades = grade_many([boxed(f"x^2 + {n} x") for n in range(4)], [f"x(x + {n})" for n in range(4)])
        assert [grade.correct for grade in grades] == [True] * 4
        assert len(workers._pool.idle) == 1 and _symbolic_processes() == 1
    finally:
        os.sched_setaffinity(0, cores)
        workers._pool.close()
    assert cpus() == len(cores)


def _symbolic_processes() -> int:
    children = psutil.Process().children()
    return sum("redi.evaluation.grading.symbolic_worker" in child.cmdline() for child in children)
