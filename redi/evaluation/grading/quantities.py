"""Exact numbers, and units: from the text after a value to a scale and powers of base units."""

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_DIGITS = 4000  # Python refuses to read longer integers (sys.get_int_max_str_digits)

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_FRACTION = (
    rf" ?\\frac\{{ ?([+-]?{_DECIMAL}) ?\}}\{{ ?([+-]?{_DECIMAL}) ?\}}|(?: |(?<!\d))({_DECIMAL}) ?[/:] ?({_DECIMAL})"
)
_POWER = r"(?: ?(?:\\times|\\cdot|\*) ?|(?<![\d ]))10\^\{(-?\d{1,4})\}"
_NUMBER = re.compile(rf"([+-]?) ?(?:({_DECIMAL})(?! ?[/:]))?(?:{_FRACTION})?(?:{_POWER})?")

_ROMAN = re.compile(r"(?=[IVXLCDM]*[IVX])(?=..)M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

# Base unit, then its multiples with their names. Symbols of one or two letters count as written, words in any case.
# Names with a star also take the prefixes below.
_TABLE = r"""
m: 1 m* meter* metre*; 0.0254 in inch inches; 0.3048 ft foot feet; 0.9144 yd yard; 1609.344 mi mile; 1e-10 angstrom
g: 1 g* gram* gm; 453.59237 lb lbs pound; 28.349523125 oz ounce; 1e6 t ton tonne
s: 1 s* sec second*; 60 min minute; 3600 h hr hour; 86400 day; 604800 week
month: 1 month; 12 yr year
dollar: 1 dollar usd buck; 0.01 cent
degree: 1 degree deg; 1/60 arcminute
m^3: 1e-3 L* l* liter* litre*; 1e-6 cc
m/s: 0.44704 mph; 5/18 kph kmh
s^-1: 1 Hz* hertz*
g m/s^2: 1e3 N* newton*
g m^2/s^2: 1e3 J* joule*; 1e-4 erg
g m^2/s^3: 1e3 W* watt*
g/m s^2: 1e3 Pa* pascal
radian: 1 rad radian
percent: 1 percent percentage pct
K: 1 K kelvin
A: 1 A* amp ampere
V: 1 V* volt*
C: 1 C* coulomb celsius
F: 1 F* farad fahrenheit
T: 1 T* tesla
ohm: 1 ohm*
mol: 1 mol* mole
eV: 1 eV*
1: 1 unit; 12 dozen; 100 hundred; 1000 thousand; 1e6 million; 1e9 billion; 1e12 trillion
"""
_PREFIXES = {"k": 3, "c": -2, "m": -3, "M": 6, "G": 9, "n": -9, "u": -6, "d": -1}
_PREFIXES |= {"kilo": 3, "centi": -2, "milli": -3, "mega": 6, "giga": 9, "nano": -9, "micro": -6}
# With one of these words, the text is part of the answer and not a unit: "60 or more", "5 factorial".
_NOT_UNITS = re.compile(
    "or|and|to|more|less|fewer|than|at|least|most|greater|not?|none|if|when|where|for|base|half|times|plus|minus|over|pi"
    "|between|except|only|with|without|factorial|choose|but"
)
_SPELLINGS = [
    (r"\\mu ?", "u"),
    (r"\\Omega", "ohm "),
    (r"\\AA", "angstrom "),
    (r"(?i)\b([ap])\.? ?m\b\.?", r"\1m"),
    (r"(?i)\b(?:square|sq)\b\.? ?([a-z]+)", r"\1^2"),
    (r"(?i)\b(?:cubic|cu)\b\.? ?([a-z]+)", r"\1^3"),
    (r"(?i) squared\b", "^2"),
    (r"(?i) cubed\b", "^3"),
    (r"(?i)\bper\b", "/"),
    (r"(?i)(?<=[a-z]) of\b.*", ""),
    (r"\b(?:the|an?|of|total|all|each|exactly|approximately|about)\b|\\cdot|[()*'.]|(?<=[a-z])-", " "),
]
_TOKEN = re.compile(r"([A-Za-z]+) ?(?:\^?\{?(-?\d)\}?)?|(/)|\S")


class Unit(NamedTuple):
    """The factor of number words (million), the scale to base units, and the powers of base units and other words."""

    factor: Fraction = Fraction(1)
    scale: Fraction = Fraction(1)
    powers: frozenset[tuple[str, int]] = frozenset()


@lru_cache(maxsize=10_000)
def read_unit(text: str) -> Unit | None:
    """`m/s^{2}`, `square inches`, `million dollars per month`; None if the text says more than a unit.

    An unknown word is a unit of its own, so different words are different units. A slash divides by all that follows.
    """
    for pattern, replacement in _SPELLINGS:
        text = re.sub(pattern, replacement, text)
    factor, scale, sign = Fraction(1), Fraction(1), 1
    powers: Counter[str] = Counter()
    for word, power, slash in _TOKEN.findall(text):
        if slash:
            sign = -1
        elif not word or _NOT_UNITS.fullmatch(word.lower()):
            return None
        else:
            name = word.lower()
            unit = known_unit(word) or Unit(powers=frozenset({(name.removesuffix("s") if len(name) > 2 else name, 1)}))
            exponent = sign * int(power or 1)
            factor, scale = factor * unit.factor**exponent, scale * unit.scale**exponent
            powers.update({base: exponent * inner for base, inner in unit.powers})
    return Unit(factor, scale, frozenset((base, exponent) for base, exponent in powers.items() if exponent))


def known_unit(word: str) -> Unit | None:
    """The unit of a word: as written, in lower case or in the singular."""
    lower = word.lower() if len(word) > 1 else word
    return _KNOWN.get(word) or _KNOWN.get(lower) or _KNOWN.get(lower.removesuffix("s"))


_KNOWN: dict[str, Unit] = {}
for _base, _, _multiples in (line.partition(": ") for line in _TABLE.strip().split("\n")):
    for _scale, *_names in (multiple.split() for multiple in _multiples.split("; ")):
        _unit = Unit(factor=Fraction(_scale)) if _base == "1" else read_unit(_base)
        _unit = _unit if _base == "1" else _unit._replace(scale=_unit.scale * Fraction(_scale))
        for _name in _names:
            _KNOWN[_name.rstrip("*")] = _unit
            for _prefix, _power in _PREFIXES.items() if _name.endswith("*") else ():
                _KNOWN[_prefix + _name[:-1]] = _unit._replace(scale=_unit.scale * Fraction(10) ** _power)


@lru_cache(maxsize=50_000)  # every sample of a problem compares the same reference answer
def exact_number(text: str) -> Fraction | None:
    """The value of a cleaned decimal, fraction, ratio, mixed, scientific or Roman number; None for anything else."""
    if _ROMAN.fullmatch(text):
        values = [_ROMAN_DIGITS[letter] for letter in text]
        return Fraction(sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True)))
    match = _NUMBER.fullmatch(text.strip()) if len(text) < MAX_DIGITS else None
    if match is None:
        return None
    sign, whole, *fraction, power = match.groups()
    above, below = fraction[0] or fraction[2], fraction[1] or fraction[3]
    if not (whole or above or power) or (whole and above and not (whole + above).isdecimal()):
        return None
    digits = (whole or ("0" if above else "1"), above or "0", below or "1")
    whole, above, below = (Fraction(number.replace(",", "")) for number in digits)
    return (-1 if sign == "-" else 1) * (whole + above / below) * Fraction(10) ** int(power or 0) if below else None
