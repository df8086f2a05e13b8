"""The symbolic stage of grading: math-verify in a process of its own, one request a line in, one verdict a line out.

Model text can make a computer algebra system run for hours or eat all memory, and some of that cannot be interrupted
from Python. So this runs as `python -m redi.evaluation.symbolic`, started and killed by `redi.evaluation.workers`.
"""

import faulthandler
import json
import logging
import os
import resource
import signal
import sys

from redi.evaluation.compare import equal

TIME_LIMIT = 3.0  # seconds a request, all golds together
HARD_LIMIT = 6.0  # seconds until the watchdog ends the process, should its parent be gone
MEMORY_LIMIT = 3 << 30  # bytes of address space


class OutOfTime(BaseException):
    """Raised by the alarm. Not an `Exception`, since math-verify and sympy swallow those."""


def same_value(gold: str, answer: str) -> bool:
    """math-verify's verdict on two LaTeX expressions, gold first; it is not symmetric.

    math-verify compares numbers after rounding to six places, so that 1e-7 equals 2e-7 and pi equals 3.141593. A
    positive verdict on two numbers must therefore hold to nine significant digits as well.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # No unit rule: it would take the m off `6m`; `redi.evaluation.normalize` has removed real units.
    rules = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    latex = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)]
    # No timeouts: they use the alarm that is set here for the whole request.
    golds, answers = (parse(f"\\boxed{{{text}}}", latex, parsing_timeout=None) for text in (gold, answer))
    return any(
        verify(g, a, float_rounding=6, numeric_precision=15, strict=True, timeout_seconds=None) and _close(g, a)
        for g in golds
        for a in answers
    )


def _close(gold, answer) -> bool:
    from sympy import Expr, N

    if not (isinstance(gold, Expr) and isinstance(answer, Expr) and gold.is_number and answer.is_number):
        return True
    left, right, difference = N(gold, 30), N(answer, 30), N(gold - answer, 30)
    if not (left.is_finite and right.is_finite):
        return bool(left == right)
    return bool(abs(difference) <= 1e-9 * max(abs(left), abs(right)))


def _alarm(signum, frame) -> None:
    raise OutOfTime


def _verdict(request: dict) -> dict:
    """Grades one request; the reply holds `correct` and, where the time ran out, `status`."""
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        return {"correct": any(equal(gold, request["answer"], same_value) for gold in request["golds"])}
    except OutOfTime:
        return {"correct": False, "status": "timeout"}
    except (MemoryError, RecursionError):
        return {"correct": False, "status": "error"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Answers requests until stdin closes. A first line `ready` says that the imports are done."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable()
    signal.signal(signal.SIGALRM, _alarm)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    equal("x+1", "1+x", same_value)  # imports and warms the parser
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HARD_LIMIT, exit=True)
        reply = _verdict(json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
