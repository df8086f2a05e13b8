"""The symbolic stage of grading: math-verify in a separate process. One request per line in, one verdict out.

Model text can make a computer algebra system run for hours or use all memory, and Python cannot always interrupt that.
So `worker_pool.py` starts this module as `python -m redi.evaluation.grading.symbolic_worker`, and kills it if needed.
"""

import faulthandler
import json
import logging
import os
import re
import resource
import signal
import sys
from tokenize import TokenError

from redi.evaluation.grading.compare import equal
from redi.evaluation.grading.paper_grader import rllm_equal

HARD_LIMIT = 8.0  # seconds until the watchdog ends the process, in case its parent is gone
MEMORY_LIMIT = 3 << 30  # bytes of address space

_LETTER = re.compile(r"\\[a-zA-Z]+|([a-zA-Z])")


class OutOfTime(BaseException):
    """Raised when the time is up. Not an `Exception`, because math-verify and sympy swallow those."""


def same_value(gold: str, answer: str) -> bool:
    """math-verify's verdict on two LaTeX expressions, gold first, with three corrections.

    - Letters keep their case: math-verify reads `M` as `m`.
    - `i` may be the imaginary unit: math-verify reads it as a variable.
    - Numbers must agree to nine significant digits: math-verify rounds to six places, where 1e-7 equals 2e-7.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # No unit rule: it would strip the m from `6m`. `normalize.py` has already removed units.
    rules = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    latex = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)]
    # No timeouts here: `_verdict` limits the whole request.
    golds, answers = (
        parse(f"\\boxed{{{text}}}", latex, parsing_timeout=None) for text in _distinct_case(gold, answer)
    )
    return any(_verified(g, a) or _verified(_imaginary(g), _imaginary(a)) for g in golds for a in answers)


def _distinct_case(gold: str, answer: str) -> tuple[str, str]:
    """Replaces a capital letter by an unused Greek one if its small letter occurs too."""
    letters = set(_LETTER.findall(gold + " " + answer))
    unused = (name for name in (r"\zeta", r"\eta", r"\kappa", r"\xi", r"\chi") if name not in gold + answer)
    both = sorted(letters & {letter.upper() for letter in letters if letter.islower()})
    names = dict(zip(both, unused, strict=False))

    def rename(match) -> str:
        return f" {names[match[1]]} " if match[1] in names else match[0]

    return _LETTER.sub(rename, gold), _LETTER.sub(rename, answer)


def _imaginary(expression):
    from sympy import Expr, I

    if not isinstance(expression, Expr):
        return expression
    return expression.subs({symbol: I for symbol in expression.free_symbols if symbol.name == "i"})


def _verified(gold, answer) -> bool:
    from math_verify import verify

    same = verify(gold, answer, float_rounding=6, numeric_precision=15, strict=True, timeout_seconds=None)
    return same and _close(gold, answer)


def _close(gold, answer) -> bool:
    from sympy import Expr, N

    if not (isinstance(gold, Expr) and isinstance(answer, Expr) and gold.is_number and answer.is_number):
        return True
    left, right, difference = N(gold, 30), N(answer, 30), N(gold - answer, 30)
    if not (left.is_finite and right.is_finite):
        return bool(left == right)
    return bool(abs(difference) <= 1e-9 * max(abs(left), abs(right)))


def zero_difference(gold: str, answer: str) -> bool:
    """Whether sympy simplifies the difference of two plain expressions to zero. `rllm_equal` has vetted both."""
    from sympy import simplify
    from sympy.parsing.sympy_parser import (
        implicit_multiplication_application,
        parse_expr,
        standard_transformations,
    )

    rules = (*standard_transformations, implicit_multiplication_application)
    text = f"({gold})-({answer})".replace("^", "**")
    try:
        return bool(simplify(parse_expr(text, transformations=rules)) == 0)
    except (ArithmeticError, AttributeError, SyntaxError, TypeError, ValueError, TokenError):  # not an expression
        return False


def _time_is_up(signum, frame) -> None:
    raise OutOfTime


def _verdict(request: dict) -> dict:
    """Grades one request. The reply holds `correct`, and `status` if there is no verdict.

    The limit is on processor time for all reference answers together, so a busy machine does not change verdicts.
    """
    signal.setitimer(signal.ITIMER_PROF, request["limit"])
    try:
        compare, decide = (rllm_equal, zero_difference) if request["rllm_style"] else (equal, same_value)
        return {"correct": any(compare(gold, request["answer"], decide) for gold in request["golds"])}
    except OutOfTime:
        return {"correct": False, "status": "timeout"}
    except (MemoryError, RecursionError):
        return {"correct": False, "status": "error"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answers requests until stdin closes. The first line, `ready`, says that the imports are done."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable()
    signal.signal(signal.SIGPROF, _time_is_up)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps anything a library prints out of the replies
    equal("x+1", "1+x", same_value)  # imports and warms the parser
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HARD_LIMIT, exit=True)
        reply = _verdict(json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
