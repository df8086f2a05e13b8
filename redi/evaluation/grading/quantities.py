"""Exact numbers, and units: from the text after a value to a scale and powers of base units."""

import math
import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_DIGITS = 4000  # Python refuses to read longer integers (sys.get_int_max_str_digits)

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?: \d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_DECIMAL_RE = re.compile(rf"([+-]?) ?({_DECIMAL})")
_SCIENTIFIC_RE = re.compile(rf"([+-]?) ?(?:({_DECIMAL}) ?(?:\\times|\\cdot|\*) ?)?10\^\{{(-?\d{{1,4}})\}}")
_FRACTION_RE = re.compile(
    rf"([+-]?) ?(?:\\frac ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}} ?\{{ ?([+-]?) ?({_DECIMAL}) ?\}}"
    rf"|({_DECIMAL}) ?[/:] ?({_DECIMAL}))"
)
_MIXED_RE = re.compile(r"([+-]?) ?(\d+)(?: ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}| (\d+) ?/ ?(\d+))")

# Base unit, then its multiples with their names. Symbols of one or two letters count as written, words in any case.
_TABLE = """
m: 1 m meter metre; 0.0254 in inch inches; 0.3048 ft foot feet; 0.9144 yd yard; 1609.344 mi mile
g: 1 g gram gm; 453.59237 lb lbs pound; 28.349523125 oz ounce; 1e6 t ton tonne
s: 1 s sec second; 60 min minute; 3600 h hr hour; 86400 day; 604800 week
month: 1 month; 12 yr year
dollar: 1 dollar usd buck; 0.01 cent
degree: 1 degree deg; 1/60 arcminute
m^3: 1e-3 L l liter litre; 1e-6 cc
m/s: 0.44704 mph; 5/18 kph kmh
s^-1: 1 Hz hertz
g m/s^2: 1e3 N newton
g m^2/s^2: 1e3 J joule; 1e-4 erg
g m^2/s^3: 1e3 W watt
g/(m s^2): 1e3 Pa pascal
radian: 1 rad radian
percent: 1 percent percentage pct
K: 1 K kelvin
A: 1 A amp ampere
V: 1 V volt
C: 1 C coulomb celsius
F: 1 F farad fahrenheit
T: 1 T tesla
ohm: 1 ohm
mol: 1 mol mole
eV: 1 eV
1: 1 unit; 12 dozen; 100 hundred; 1000 thousand; 1e6 million; 1e9 billion; 1e12 trillion
"""

_PREFIXES = {"k": 3, "c": -2, "m": -3, "M": 6, "G": 9, "n": -9, "u": -6, "d": -1}
_PREFIXES |= {"kilo": 3, "centi": -2, "milli": -3, "mega": 6, "giga": 9, "nano": -9, "micro": -6}
_PREFIXED = (
    "m g s l L N J W V A C F T Pa Hz eV ohm mol meter metre gram second liter litre newton joule watt volt hertz"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
# With one of these words, the text is part of the answer and not a unit: "60 or more", "5 factorial".
_NOT_UNITS = re.compile(
    "or|and|to|more|less|fewer|than|at|least|most|greater|not?|none|if|when|where|for|base|half|times|plus|minus|over|pi"
    "|between|except|only|with|without|factorial|choose|but"
)
_FILLERS = re.compile(r"the|an?|of|total|all|each|exactly|approximately|about|\\cdot|[.*'-]")
_TOKEN = re.compile(r"[A-Za-z]+|\^\{?(-?\d)\}?|\\cdot|\d|\S")
_HALF_DAY = re.compile(r"\b([ap])\.? ?m\b\.?", re.IGNORECASE)


class Unit(NamedTuple):
    """The factor of number words (million), the scale to base units, and the powers of base units and other words."""

    factor: Fraction = Fraction(1)
    scale: Fraction = Fraction(1)
    powers: frozenset[tuple[str, int]] = frozenset()


NO_UNIT = Unit()


@lru_cache(maxsize=10_000)
def read_unit(text: str) -> Unit | None:
    """`m/s^{2}`, `square inches`, `million dollars per month`; None if the text says more than a unit.

    An unknown word is a unit of its own, so different words are different units.
    """
    units: list[tuple[Unit, int]] = []
    sign, power, outer = 1, 1, [1]
    text = _HALF_DAY.sub(r"\1m", re.sub(r"\\mu ?", "u", text).replace(r"\Omega", "ohm "))
    for match in _TOKEN.finditer(text):
        token, name = match.group(), match.group().lower()
        if (match[1] or token.isdecimal() or name in ("squared", "cubed")) and units:
            units[-1] = units[-1][0], units[-1][1] * int(match[1] or _POWERS.get(name) or token)
        elif name in ("/", "per"):
            sign = -1
        elif token in "()":
            outer = [*outer, sign] if token == "(" else outer[:-1] or [1]
            sign = outer[-1]
        elif name in _POWERS:
            power = _POWERS[name]
        elif name == "of" and units:
            break
        elif not _FILLERS.fullmatch(token) or (token == "-" and not units):
            if _NOT_UNITS.fullmatch(name) or not token.isalpha():
                return None
            unknown = Unit(powers=frozenset({(name.removesuffix("s") if len(name) > 2 else name, 1)}))
            units.append((known_unit(token) or unknown, sign * power))
            sign, power = outer[-1], 1
    powers: Counter[str] = Counter()
    for unit, exponent in units:
        powers.update({base: exponent * inner for base, inner in unit.powers})
    factor, scale = (math.prod(unit[i] ** exponent for unit, exponent in units) for i in (0, 1))
    return Unit(factor, scale, frozenset((base, exponent) for base, exponent in powers.items() if exponent))


def known_unit(word: str) -> Unit | None:
    """The unit of a word: as written, in lower case or in the singular."""
    lower = word.lower() if len(word) > 1 else word
    return _KNOWN.get(word) or _KNOWN.get(lower) or _KNOWN.get(lower.removesuffix("s"))


_KNOWN: dict[str, Unit] = {}
for _base, _, _multiples in (line.partition(": ") for line in _TABLE.strip().split("\n")):
    for _scale, *_names in (multiple.split() for multiple in _multiples.split("; ")):
        _unit = read_unit(_base) if _base != "1" else Unit(factor=Fraction(_scale))
        _KNOWN |= dict.fromkeys(_names, _unit._replace(scale=_unit.scale * Fraction(_scale if _base != "1" else 1)))
for _prefix, _power in _PREFIXES.items():
    for _name in _PREFIXED.split():
        _unit = _KNOWN[_name]
        _KNOWN.setdefault(_prefix + _name, _unit._replace(scale=_unit.scale * Fraction(10) ** _power))


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
