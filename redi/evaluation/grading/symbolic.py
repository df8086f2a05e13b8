"""Symbolic algebra for the comparison, by math-verify and sympy. It may take any time: `workers.py` limits it."""

import random
import re

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Derivative, Expr, Float, I, Integral, Limit, Pow, Product, Sum, log
from sympy.core.function import AppliedUndef
from sympy.core.relational import Equality, Relational
from sympy.logic.boolalg import Boolean

from redi.evaluation.grading.compare import NAMES

DIGITS = 25  # of values
POINTS = 20  # at which expressions are tried
ENOUGH = 4  # points with real values that must agree

_AS_IT_IS = NormalizationConfig(basic_latex=False, units=False, malformed_operators=False, nits=False)
_LATEX = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=_AS_IT_IS)]
_LETTERS = "xyzabcdhjklmnopqrstuvw"
_MATRIX_PRODUCT = re.compile(r"(?:[A-Z](?:\^\{(?:-1|T|\\top)\})? ?)+")
_OPAQUE = (AppliedUndef, Derivative, Integral, Limit, Product, Sum)


def same_value(gold: str, answer: str) -> bool:
    """Whether two cleaned LaTeX expressions, relations or sets are equal: by their values, else by math-verify.

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
        same = verify(first, second, float_rounding=15, numeric_precision=15, strict=True, timeout_seconds=None)
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
    parsed = parse(f"\\boxed{{{text}}}", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    expression = parsed[0] if parsed else None
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
    opaque = gold.has(*_OPAQUE) or answer.has(*_OPAQUE)
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
    """Whether two values agree; None if one is zero and the other may be, or a difference could not be seen."""
    difference, size = abs(first - second), max(abs(first), abs(second))
    same = difference <= tolerance * size
    if (same and size > 1e150) or (difference and 0 in (first, second) and size < 1e-15):
        return None
    return bool(same)
