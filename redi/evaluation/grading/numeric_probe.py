"""Tells expressions apart by their values at one point. The value of a variable there is drawn from its name.

Expressions with different values at a point are not equal, whatever a computer algebra system says. This settles most
wrong answers in microseconds. It never proves that two expressions are equal. Text that is ambiguous (`\\sin 2x`,
`1/2x`, `\\log x`) or not an expression is not evaluated.
"""

import cmath
import math
import random
import re
from functools import lru_cache

MAX_CHARS = 400
MAX_DEPTH = 30
TOLERANCE = 1e-7  # relative; closer values are left to exact algebra

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|((?:\\[a-zA-Z]+|[^\W\d_])(?:_\{[^{}]*\})?)|(.))", re.DOTALL)
_FUNCTIONS = {
    r"\sin": cmath.sin,
    r"\cos": cmath.cos,
    r"\tan": cmath.tan,
    r"\ln": cmath.log,
    r"\exp": cmath.exp,
    r"\cot": lambda angle: 1 / cmath.tan(angle),
    r"\arcsin": cmath.asin,
    r"\arccos": cmath.acos,
    r"\arctan": cmath.atan,
}
_CONSTANTS = {r"\pi": math.pi, "e": math.e, "i": 1j}
_VARIABLE = re.compile(
    r"(?:[^\W\d_]|\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi"
    r"|omega|hbar|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega))(?:_\{[^{}]*\})?"
)
_CLOSE = {"(": ")", "{": "}", "[": "]"}
_ROUND = {r"\lfloor": (r"\rfloor", math.floor), r"\lceil": (r"\rceil", math.ceil)}
_ENDS = ("+", "-", ")", "}", "]", "|", ",", r"\rfloor", r"\rceil")
_TIMES = ("*", r"\cdot", r"\times")


class _Unreadable(Exception):
    """The text is not a plain expression, or is ambiguous."""


def differ(first: str, second: str) -> bool:
    """Whether two cleaned LaTeX expressions certainly have different values. False if either cannot be evaluated."""
    a, b = value(first), value(second)
    return a is not None and b is not None and abs(a - b) > TOLERANCE * max(abs(a), abs(b))


@lru_cache(maxsize=50_000)
def value(text: str) -> complex | None:
    """The value at the point; None if the text cannot be evaluated."""
    if len(text) > MAX_CHARS:
        return None
    tokens = [match.group(match.lastindex) for match in _TOKEN.finditer(text.strip())]
    try:
        reader = _Reader(tokens)
        result = reader.sum(0)
        return result if reader.next() == "" and cmath.isfinite(result) else None
    except (_Unreadable, OverflowError, ZeroDivisionError, ValueError):
        return None


@lru_cache(maxsize=1000)
def _variable(name: str) -> float:
    return random.Random(name).uniform(0.3, 1.7)


def _factorial(number: complex) -> complex:
    if number.imag or number.real < 0:
        raise _Unreadable
    return complex(math.gamma(number.real + 1))


class _Reader:
    """Reads tokens from left to right. Each method reads one kind of expression and returns its value."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens
        self.at = 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.next()
        if not token or (wanted is not None and token != wanted):
            raise _Unreadable
        self.at += 1
        return token

    def sum(self, depth: int) -> complex:
        if depth > MAX_DEPTH:
            raise _Unreadable
        total, sign = 0j, -1 if self.next() == "-" else 1
        if self.next() in ("+", "-"):
            self.take()
        while True:
            total += sign * self.product(depth)
            if self.next() not in ("+", "-"):
                return total
            sign = -1 if self.take() == "-" else 1

    def product(self, depth: int) -> complex:
        result, divided = self.power(depth), False
        while (token := self.next()) and token not in _ENDS:
            if token in _TIMES:
                self.take()
                result *= self.power(depth)
            elif token == "/":
                self.take()
                result, divided = result / self.power(depth), True
            else:  # side by side; 1/2x could be 1/(2x), and 1 \frac{1}{2} a mixed number
                after_number = self.tokens[self.at - 1][-1].isdigit()
                if divided or token[0].isdigit() or (after_number and token == r"\frac"):
                    raise _Unreadable
                result *= self.power(depth)
        return result

    def power(self, depth: int) -> complex:
        base = self.base(depth)
        if self.next() == "!":
            self.take()
            base = _factorial(base)
        if self.next() != "^":
            return base
        self.take()
        exponent = self.base(depth)
        odd_root = base.imag == 0 and base.real < 0 and exponent != round(exponent.real)
        if self.next() in ("^", "!") or odd_root:
            raise _Unreadable
        return base**exponent

    def base(self, depth: int) -> complex:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return complex(float(token))
        if token in _CLOSE:
            inside = self.sum(depth + 1)
            self.take(_CLOSE[token])
            return inside
        if token in _CONSTANTS:
            return complex(_CONSTANTS[token])
        if token == r"\frac":
            return self.group(depth) / self.group(depth)
        if token == r"\binom":
            above, below = self.group(depth), self.group(depth)
            return _factorial(above) / _factorial(below) / _factorial(above - below)
        if token in _ROUND:
            closing, rounded = _ROUND[token]
            inside = self.sum(depth + 1)
            self.take(closing)
            if inside.imag or abs(inside - round(inside.real)) < TOLERANCE:
                raise _Unreadable
            return complex(rounded(inside.real))
        if token == r"\sqrt":
            return self.root(depth)
        if token in _FUNCTIONS:
            return self.function(_FUNCTIONS[token], depth)
        if _VARIABLE.fullmatch(token):
            return complex(_variable(token))
        raise _Unreadable

    def group(self, depth: int) -> complex:
        if self.next() != "{":
            raise _Unreadable
        return self.base(depth)

    def root(self, depth: int) -> complex:
        if self.next() == "(":
            return cmath.sqrt(self.base(depth))
        index = self.base(depth) if self.next() == "[" else 2
        inside = self.group(depth)
        if index != 2 and (inside.imag or inside.real < 0):  # real root or principal root?
            raise _Unreadable
        return inside ** (1 / index)

    def function(self, apply, depth: int) -> complex:
        power = 1
        if self.next() == "^":
            self.take()
            power = self.base(depth)
            if power not in (2, 3, 4):  # -1 is the inverse function
                raise _Unreadable
        in_parentheses = self.next() in ("(", "{")
        argument = self.base(depth)
        after = self.next()
        if after == "^" or (not in_parentheses and (after in _CLOSE or _VARIABLE.fullmatch(after))):
            raise _Unreadable
        return apply(argument) ** power
