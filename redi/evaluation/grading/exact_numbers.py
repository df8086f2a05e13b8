"""Reads the exact value of a number written in LaTeX."""

import re
from fractions import Fraction
from functools import lru_cache

MAX_DIGITS = 4000  # Python refuses to read longer integers (sys.get_int_max_str_digits)

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?: \d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_DECIMAL_RE = re.compile(rf"([+-]?) ?({_DECIMAL})")
_SCIENTIFIC_RE = re.compile(rf"([+-]?) ?(?:({_DECIMAL}) ?(?:\\times|\\cdot|\*) ?)?10\^\{{(-?\d{{1,4}})\}}")
_FRACTION_RE = re.compile(
    rf"([+-]?) ?(?:\\frac ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}} ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}}"
    rf"|({_DECIMAL}) ?[/:] ?({_DECIMAL}))"
)
_MIXED_RE = re.compile(r"([+-]?) ?(\d+)(?: ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}| (\d+) ?/ ?(\d+))")


@lru_cache(maxsize=50_000)  # every sample of a problem compares the same reference answer
def exact_number(text: str) -> Fraction | None:
    """The exact value of a cleaned decimal, fraction, ratio, mixed or scientific number; None for anything else."""
    text = text.strip()
    if not text or not (text[0] in "+-.\\" or text[0].isdigit()):
        return None
    if match := _DECIMAL_RE.fullmatch(text):
        return _signed(match[1], _decimal(match[2]))
    if len(text) > MAX_DIGITS:
        return None
    if match := _SCIENTIFIC_RE.fullmatch(text):
        mantissa = _decimal(match[2]) if match[2] else Fraction(1)
        return _signed(match[1], mantissa * Fraction(10) ** int(match[3]))
    if match := _FRACTION_RE.fullmatch(text):
        above, below = _decimal(match[3] or match[6]), _decimal(match[5] or match[7])
        sign = "-" if (match[1], match[2], match[4]).count("-") % 2 else ""
        return _signed(sign, above / below) if below else None
    if match := _MIXED_RE.fullmatch(text):
        above, below = int(match[3] or match[5]), int(match[4] or match[6])
        return _signed(match[1], int(match[2]) + Fraction(above, below)) if below else None
    return None


def _decimal(digits: str) -> Fraction | None:
    whole, _, part = digits.replace(",", "").replace(" ", "").partition(".")
    whole, part = whole.lstrip("0"), part.rstrip("0")
    if len(whole) + len(part) > MAX_DIGITS:
        return None
    return Fraction(int(whole + part or "0"), 10 ** len(part))


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if value is not None and sign == "-" else value
