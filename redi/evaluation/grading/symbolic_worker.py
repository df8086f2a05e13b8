"""The symbolic stage of grading: math-verify in a separate process. One request in, one verdict out.

Model text can make a computer algebra system run for hours or use all memory, and Python cannot always interrupt that.
So `worker_pool.py` starts this module as `python -m redi.evaluation.grading.symbolic_worker`, and kills it if needed.
"""

import faulthandler
import logging
import random
import re
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from tokenize import TokenError

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Derivative, Expr, Float, I, Integral, Limit, Pow, Product, Sum, log, simplify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Equality, Relational
from sympy.logic.boolalg import Boolean
from sympy.parsing.sympy_parser import implicit_multiplication_application, parse_expr, standard_transformations

from redi.evaluation.grading.compare import NAMES, equal
from redi.evaluation.grading.paper_grader import rllm_equal

HARD_LIMIT = 8.0  # seconds until the watchdog ends the process, in case its parent is gone
MEMORY_LIMIT = 3 << 30  # bytes of address space

DIGITS = 25  # of values
POINTS = 20  # at which expressions are tried
ENOUGH = 4  # points with real values that must agree

_AS_IT_IS = NormalizationConfig(basic_latex=False, units=False, malformed_operators=False, nits=False)
_LATEX = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=_AS_IT_IS)]
_RULES = (*standard_transformations, implicit_multiplication_application)
_LETTERS = "xyzabcdhjklmnopqrstuvw"
_MATRIX_PRODUCT = re.compile(r"(?:[A-Z](?:\^\{(?:-1|T|\\top)\})? ?)+")


class OutOfTime(BaseException):
    """Raised when the time is up. Not an `Exception`, because math-verify and sympy swallow those."""


def same_value(gold: str, answer: str) -> bool:
    """Whether two cleaned LaTeX expressions, equations or sets are equal: by their values, else by math-verify.

    Expressions with the same 25 digits at random points are equal. The points are positive if the reference answer has
    a root or logarithm of variables, so that `\\sqrt{ab}` is `\\sqrt{a}\\sqrt{b}`.
    """
    if all(_MATRIX_PRODUCT.fullmatch(text) for text in (gold, answer)) and "^" in gold + answer:
        return False  # the order of the factors counts
    first, second = (_parsed(text) for text in _renamed(gold, answer))
    if first is None or second is None:
        return False
    try:
        if isinstance(first, Boolean) != isinstance(second, Boolean):  # an inequality and the set of its solutions
            first, second = (side.as_set() if isinstance(side, Boolean) else side for side in (first, second))
        same = _same_values(first, second)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):  # sympy cannot evaluate them
        same = None
    if same is None:
        same = verify(first, second, float_rounding=9, numeric_precision=15, strict=True, timeout_seconds=None)
    return same


def _renamed(*texts: str) -> list[str]:
    """Gives the names that the parser would misread (capitals, accents, primes, subscripts, words) unused letters."""
    names = dict.fromkeys(match[1] for text in texts for match in NAMES.finditer(text) if match[1])
    unused = (letter for letter in _LETTERS if letter not in names)
    index = any("_{i=" in text for text in texts)  # not the imaginary unit
    plain = {name for name in names if len(name) == 1 and name.islower()} - ({"i"} if index else set())
    new = {name: name if name in plain else next(unused, name) for name in names}
    return [NAMES.sub(lambda match: f" {new[match[1]]} " if match[1] else match[0], text) for text in texts]


def _parsed(text: str):
    """The sympy expression, with `i` as the imaginary unit; None if the text is none."""
    parsed = parse(f"\\boxed{{{text}}}", _LATEX, parsing_timeout=None)  # `_verdict` limits the whole request
    expression = next((result for result in parsed if not isinstance(result, str)), None)
    if not isinstance(expression, Expr):
        return expression
    return expression.subs({symbol: I for symbol in expression.free_symbols if symbol.name == "i"})


def _same_values(gold, answer) -> bool | None:
    """Whether two expressions or relations agree at random points; None if they cannot be evaluated there."""
    if isinstance(gold, Relational) and type(gold) is type(answer):  # the same up to a constant factor
        ratio = (gold.lhs - gold.rhs) / (answer.lhs - answer.rhs)
        values = [value for value, _ in _values_at_points(ratio, ratio, False, DIGITS)]
        signs = isinstance(gold, Equality) or all(value.is_positive for value in values)
        return signs and all(_close(value, values[0], 1e-12) for value in values) if len(values) > 1 else None
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return None
    if gold.is_Rational and answer.is_Rational:
        return gold == answer
    opaque = gold.has(*(kinds := (AppliedUndef, Derivative, Integral, Limit, Product, Sum))) or answer.has(*kinds)
    constant = not gold.free_symbols | answer.free_symbols
    if opaque and not constant:
        return None
    bases = [part.base for part in gold.atoms(Pow) if not part.exp.is_integer]
    positive = any(part.free_symbols for part in bases + [part.args[0] for part in gold.atoms(log)])
    digits = 8 * DIGITS if constant and not opaque else DIGITS
    tolerance = Float(10) ** (-9 if gold.has(Float) or answer.has(Float) else 7 - digits)
    agreed = [_close(*values, tolerance) for values in _values_at_points(gold, answer, positive, digits)]
    return None if not agreed or None in agreed else all(agreed)


def _values_at_points(gold, answer, positive: bool, digits: int) -> list[tuple]:
    """Pairs of values up to the first that differ; at real points, if both are real anywhere."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    rng, real, other = random.Random(0), [], []
    for _ in range(POINTS if symbols else 1):
        point = {s: Float(10 ** rng.uniform(-1, 0.8) * rng.choice((1, 1 if positive else -1))) for s in symbols}
        values = tuple(expression.evalf(digits, subs=point) for expression in (gold, answer))
        if all(value.is_number and value.is_finite for value in values):
            (real if all(value.is_real for value in values) else other).append(values)
        if len(real) == ENOUGH or (real and not _close(*real[-1], 1e-12)):
            break
    return real or other


def _close(first, second, tolerance: float) -> bool | None:
    """Whether two values agree; None if one is zero and the other may be."""
    difference, size = abs(first - second), max(abs(first), abs(second))
    if difference and (first == 0 or second == 0) and size < 1e-15:
        return None
    return bool(difference <= tolerance * size)


def zero_difference(gold: str, answer: str) -> bool:
    """Whether sympy simplifies the difference of two plain expressions to zero. `rllm_equal` has vetted both."""
    text = f"({gold})-({answer})".replace("^", "**")
    try:
        return bool(simplify(parse_expr(text, transformations=_RULES)) == 0)
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
        return {"correct": any(compare(gold, request["box"], decide) for gold in request["golds"])}
    except OutOfTime:
        return {"correct": False, "status": "timeout"}
    except (MemoryError, RecursionError):
        return {"correct": False, "status": "error"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answers requests until the parent is gone. The first message, True, says that the imports are done."""
    pipe = Connection(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable()
    signal.signal(signal.SIGPROF, _time_is_up)
    equal("x+1", "1+x", same_value)  # imports and warms the parser
    with suppress(EOFError, OSError):
        pipe.send(True)
        while True:
            request = pipe.recv()
            faulthandler.dump_traceback_later(HARD_LIMIT, exit=True)
            reply = _verdict(request)
            faulthandler.cancel_dump_traceback_later()
            pipe.send(reply)


if __name__ == "__main__":
    main()
