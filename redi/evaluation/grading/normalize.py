"""Rewrites LaTeX answers to one spelling, so most can be compared as text or as exact numbers.

`clean` rewrites notation that never changes a value: spacing, delimiters, Unicode. `strip_unit` and `unwrap_text` work
on one item of a list. Nothing is evaluated.
"""

import re
import unicodedata

# Longer answers are compared verbatim: the longest reference answer has a few hundred characters, and rules take time.
MAX_ANSWER_CHARS = 2000
MAX_UNITS = 8  # stripped from one item

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
# With one of these words, trailing text is part of the answer and not a unit: "60 or more", "5 million", "3 mod 7".
_NOT_UNITS = (
    "or and to more less fewer than at least most greater not no none if when where for mod base hundred thousand "
    "million billion trillion dozen half times plus minus over pi between except only with without"
)
_SYMBOLS = {
    "INFINITY": r"\infty ",
    "DEGREE SIGN": r"^\circ ",
    "MINUS SIGN": "-",
    "EN DASH": "-",
    "HYPHEN": "-",
    "NON-BREAKING HYPHEN": "-",
    "MULTIPLICATION SIGN": r"\times ",
    "MIDDLE DOT": r"\cdot ",
    "DOT OPERATOR": r"\cdot ",
    "DIVISION SIGN": "/",
    "DIVISION SLASH": "/",
    "SQUARE ROOT": r"\sqrt ",
    "LESS-THAN OR EQUAL TO": r"\le ",
    "GREATER-THAN OR EQUAL TO": r"\ge ",
    "NOT EQUAL TO": r"\neq ",
    "ALMOST EQUAL TO": r"\approx ",
    "PLUS-MINUS SIGN": r"\pm ",
    "UNION": r"\cup ",
    "INTERSECTION": r"\cap ",
    "ELEMENT OF": r"\in ",
    "EMPTY SET": r"\emptyset ",
    "DOUBLE-STRUCK CAPITAL R": r"\mathbb{R}",
    "IDEOGRAPHIC FULL STOP": ".",
    "EURO SIGN": "",
    "POUND SIGN": "",
    "ZERO WIDTH SPACE": "",
    "ZERO WIDTH JOINER": "",
    "ZERO WIDTH NON-JOINER": "",
    "ZERO WIDTH NO-BREAK SPACE": "",
}
# code point -> LaTeX
CHARACTERS = {ord(unicodedata.lookup(name)): latex for name, latex in _SYMBOLS.items()}
for _name in _GREEK.split():
    _kind = "SMALL" if _name.islower() else "CAPITAL"
    CHARACTERS[ord(unicodedata.lookup(f"GREEK {_kind} LETTER {_name.upper().replace('LAMBDA', 'LAMDA')}"))] = (
        f"\\{_name} "
    )
_SUPERSCRIPTS = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b\u207f]+")
_SUBSCRIPTS = re.compile("[\u2080-\u208b]+")

_FONT = (
    r"\\(?:text(?:bf|rm|it|normal|sf|tt)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname|boldsymbol|bold|bm|rm|bf"
    r"|underline|overline|boxed|fbox)"
)
_FONT_GROUP = re.compile(_FONT + r"\s*\{([^{}]*)\}")
_FONT_COMMAND = re.compile(_FONT + r"(?![a-zA-Z])\s*(?=\{)")
_TEXT_AT_END = re.compile(_FONT + r"\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?$")


def _repeating(match: re.Match) -> str:
    whole, head, tail = match[1] or "0", match[2], match[3]
    shift = 10 ** len(head)
    nines = shift * (10 ** len(tail) - 1)
    return rf"\frac{{{int(whole) * nines + int(head or 0) * (10 ** len(tail) - 1) + int(tail)}}}{{{nines}}}"


# `clean` applies these in order. A comment says what a rule is for if the pattern does not.
_RULES = [
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}"), ""),
    (re.compile(r"(?<!\\)\\[()\[\]]"), ""),  # \( \) \[ \], but not the line break in \\[4pt]
    (re.compile(r"\\?\$"), ""),  # both math delimiters and currency
    (re.compile(r"\\(?:left|right)\s*\."), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[lr]brace(?![a-zA-Z])"), lambda m: r"\{" if m.group()[1] == "l" else r"\}"),
    (re.compile(r"\\[lr]angle(?![a-zA-Z])"), lambda m: "(" if m.group()[1] == "l" else ")"),
    (re.compile(r"\\!\s?"), ""),  # 10,\!080
    (re.compile(r"\{\s?,\s?\}"), ","),  # 10{,}080
    (re.compile(r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))"), ""),  # 10\,080
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(frac|sqrt)\s?(\\[a-zA-Z]+|[^{}\[\]()\s\\])"), r"\\\1{\2}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s?(\\[a-zA-Z]+|[^{}\[\]()\s\\])"), r"\1{\2}"),
    (re.compile(r"(?<![\d.])(\d{0,50})\.(\d{0,50})\\overline\s?\{(\d{1,50})\}"), _repeating),
    (re.compile(r"\^\s?\{?\s?\\(?:circ|degree)(?![a-zA-Z])\s?\}?(?:\s?[CF](?![a-zA-Z]))?|\\degree(?![a-zA-Z])"), " "),
    (re.compile(r"\\?%"), ""),
    (re.compile(r"<=|\\leqslant|\\leq(?![a-zA-Z])"), r"\\le "),
    (re.compile(r">=|\\geqslant|\\geq(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"!=|\\ne(?![a-zA-Z])"), r"\\neq "),
    (re.compile(r":="), "="),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"([\^_])\s?(-?\d+|[a-zA-Z]|\\[a-zA-Z]+)"), r"\1{\2}"),
    (re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w|\.\d)"), r"\1 \\times 10^{\2}"),
    (re.compile(r"\^\{\+"), "^{"),
    (re.compile(r"(^|[(\[,;={])\s?\+"), r"\1"),  # a unary plus
    (re.compile(r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+"), ", "),
    (re.compile(r"\^\s?\{?\s?\\(?:text|mathrm)\s?\{(?:st|nd|rd|th)\}\s?\}?"), ""),  # 7^{\text{th}}
    (re.compile(r"(?:\\\\)+\s*$"), ""),
    (re.compile(r"\\[bpB]matrix"), "matrix"),
    (re.compile(r"\{[bpB]matrix\}"), "{pmatrix}"),
    (re.compile(r"\\varnothing|\\\{\s?\\\}"), r"\\emptyset "),
    (re.compile(r"\\mathbb\s?R(?![a-zA-Z])"), r"\\mathbb{R}"),
    (re.compile(r"^\s*\\mathbb\{R\}\s*$"), r"(-\\infty,\\infty)"),
]

_UNITS = {
    "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "lb": "lbs pound pounds",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "yr yrs years",
    "dollar": "dollars usd",
    "cent": "cents",
    "degree": "degrees deg",
    "percent": "pct",
    "radian": "rad radians",
    "unit": "units",
    "mph": "",
    "L": "liter liters litre litres",
    "ml": "milliliter milliliters",
    "Hz": "hertz",
    "K": "kelvin",
    "J": "joule joules",
    "N": "newton newtons",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "erg": "ergs",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in (unit, *words.split())}
_BARE_WORDS = "|".join(sorted((word for word in _UNIT_OF if len(word) > 1), key=len, reverse=True))
_BARE_AT_END = re.compile(
    rf"(?<=[\d}})\s])((?:(?:square|sq|cubic|cu)\.?\s)?(?:{_BARE_WORDS}))\s*(?:\^\s*\{{?\s*(\d)\s*\}}?)?$",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Za-z]+")
_NOT_A_UNIT = frozenset(_NOT_UNITS.split())


def clean(text: str) -> str:
    """Rewrites LaTeX that differs only in notation to one spelling. Keeps values and the order of items.

    Args:
        text: the content of a box, or a reference answer.

    Returns:
        The cleaned text. Text longer than `MAX_ANSWER_CHARS` is only stripped.
    """
    text = text.strip()
    if len(text) > MAX_ANSWER_CHARS:
        return text
    if not text.isascii():
        text = _SUPERSCRIPTS.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m.group()) + "}", text)
        text = _SUBSCRIPTS.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m.group()) + "}", text)
        text = unicodedata.normalize("NFKC", text.translate(CHARACTERS))
        text = text.replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-")
    text = " ".join(text.split())
    if text.isdecimal():
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;: ")


def strip_unit(item: str) -> tuple[str, str]:
    """Splits a trailing unit from one item: `5\\text{ in}^3` -> (`5`, `in^3`). An unknown unit is `?`.

    Text that changes the answer ("or more", "million") is not a unit. An item that is only text is not split.
    """
    units = []
    for _ in range(MAX_UNITS):
        match = _TEXT_AT_END.search(item) or _BARE_AT_END.search(item)
        if match is None or not _carries_value(item[: match.start()]):
            break
        words = _WORDS.findall(match[1])
        if not _NOT_A_UNIT.isdisjoint(word.lower() for word in words) or any(
            c in match[1] for c in "(),=<>0123456789"
        ):
            break
        if words:
            units.append(_unit_name(words, match[2]))
        item = item[: match.start()].rstrip()
    return item, " ".join(reversed(units))


def _carries_value(text: str) -> bool:
    text = text.rstrip()
    return bool(text) and (text[-1].isalnum() or text[-1] in "})!|")


def _unit_name(words: list[str], power: str | None) -> str:
    powers = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
    rest = [word for word in words if word.lower() not in powers]
    power = next((powers[word.lower()] for word in words if word.lower() in powers), power)
    name = (_UNIT_OF.get(rest[0]) or _UNIT_OF.get(rest[0].lower())) if len(rest) == 1 else None
    if name is None or name == "unit":
        return "?"
    return name if power is None else f"{name}^{power}"


def unwrap_text(item: str) -> str:
    """Removes font commands: `\\textbf{Evelyn}` -> `Evelyn`, `\\mathbf{\\frac{1}{2}}` -> `{\\frac{1}{2}}`."""
    return _FONT_COMMAND.sub("", _FONT_GROUP.sub(r"\1", item)).strip().rstrip(".,;: ")


def has_text(item: str) -> bool:
    """Whether the item has a font command, so it may be words rather than a product of variables."""
    return _FONT_COMMAND.search(item) is not None
