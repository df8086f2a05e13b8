"""Units of measurement: from the text after a value to a scale and powers of base units."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_POWER = 9

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
_FILLERS = re.compile("the|an?|of|total|all|each|exactly|approximately|about")
_TOKEN = re.compile(r"[A-Za-z]+|\^\{?(-?\d+)\}?|\\cdot|\d+|\S")
_HALF_DAY = re.compile(r"\b([ap])\.? ?m\b\.?", re.IGNORECASE)


class Unit(NamedTuple):
    factor: Fraction  # of number words: million
    scale: Fraction  # from this unit to base units
    powers: frozenset[tuple[str, int]]  # of base units and unknown words


NO_UNIT = Unit(Fraction(1), Fraction(1), frozenset())


@lru_cache(maxsize=10_000)
def read_unit(text: str) -> Unit | None:
    """`m/s^{2}`, `square inches`, `million dollars per month`; None if the text says more than a unit.

    An unknown word is a unit of its own, so different words are different units.
    """
    words: list[tuple[str, int]] = []
    sign, power, outer = 1, 1, []
    text = _HALF_DAY.sub(r"\1m", text.replace(r"\mu", "u").replace(r"\Omega", "ohm ").replace("u ", "u"))
    for match in _TOKEN.finditer(text):
        token, name = match.group(), match.group().lower()
        if match[1] or token.isdecimal() or (name in ("squared", "cubed") and words):
            if not words:
                return None
            word, exponent = words.pop()
            words.append((word, exponent * int(match[1] or _POWERS.get(name) or token)))
        elif name in ("/", "per"):
            sign = -1
        elif token in "()":
            outer = [*outer, sign] if token == "(" else outer[:-1]
            sign = outer[-1] if outer else 1
        elif name in _POWERS:
            power = _POWERS[name]
        elif _NOT_UNITS.fullmatch(name) or (not token.isalpha() and token not in (r"\cdot", ".", "*", "-", "'")):
            return None
        elif name == "of" and words:
            break
        elif token.isalpha() and not _FILLERS.fullmatch(token):
            words.append((token, sign * power))
            sign, power = outer[-1] if outer else 1, 1
    return _product([(_word(word), power) for word, power in words])


def _product(units: list[tuple[Unit, int]]) -> Unit:
    factor, scale, powers = Fraction(1), Fraction(1), {}
    for unit, power in units:
        if abs(power) > MAX_POWER:
            return None
        factor *= unit.factor**power
        scale *= unit.scale**power
        for base, exponent in unit.powers:
            powers[base] = powers.get(base, 0) + exponent * power
    return Unit(factor, scale, frozenset((base, power) for base, power in powers.items() if power))


def known_unit(word: str) -> Unit | None:
    """The unit of a word: as written, in lower case, in the singular, or after a prefix."""
    singular = word.lower().removesuffix("s") if len(word) > 2 else word
    for name in (word, word.lower() if len(word) > 1 else word, singular):
        if name in _KNOWN:
            return _KNOWN[name]
    for prefix, power in _PREFIXES.items():
        for name in (word, singular):
            if name.startswith(prefix) and name.removeprefix(prefix) in _PREFIXED.split():
                unit = _KNOWN[name.removeprefix(prefix)]
                return unit._replace(scale=unit.scale * Fraction(10) ** power)
    return None


def _word(word: str) -> Unit:
    name = word.lower().removesuffix("s") if len(word) > 2 else word.lower()
    return known_unit(word) or NO_UNIT._replace(powers=frozenset({(name, 1)}))


_KNOWN: dict[str, Unit] = {}
for _line in _TABLE.split("\n"):
    _base, _, _multiples = _line.partition(": ")
    for _multiple in filter(None, _multiples.split("; ")):
        _scale, *_names = _multiple.split()
        _unit = read_unit(_base) if _base != "1" else NO_UNIT._replace(factor=Fraction(_scale))
        _scale = Fraction(_scale) if _base != "1" else 1
        _KNOWN |= {name: _unit._replace(scale=_unit.scale * _scale) for name in _names}
