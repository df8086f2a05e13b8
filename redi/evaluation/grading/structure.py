"""Reads a cleaned answer into its structure. Nothing inside braces or brackets splits an answer."""

import re
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from redi.evaluation.grading.normalize import clean
from redi.evaluation.grading.quantities import Unit, exact_number, known_unit, read_unit

MAX_DEPTH = 8

_TEXT = r"\\text\{(?:[^{}]|\{[^{}]*\})*\}"
_TOKEN = re.compile(r"\\text\{ ?,? ?(?:and|or) ?\}|\\[a-zA-Z]+|\\.|,? (?:and|or) |.", re.DOTALL)
_OPEN = ("(", "[", "{", r"\{", r"\begin")
_CLOSE = (")", "]", "}", r"\}", r"\end")
_AND = r"[,;]|\\\\|\\text.*\}|,? (?:and|or) "
_REVERSED = {">": "<", r"\ge": r"\le"}
NAME = re.compile(
    rf"(?!\\pi\b)(?:(?:m ?)?\\(?:angle|triangle) ?)?(?:{_TEXT}|\\[a-zA-Z]+|[A-Za-z]+)"
    r"(?:[_^]\{[^{}]*\})?'*(?: ?\([^()]*\))?|\|[^|]*\||\\(?:bar|vec|hat|dot)\{[^{}]*\}"
)
_VARIABLE = re.compile(r"(?:\\[a-z]+|[A-Za-z])(?:_\{\w+\})?")
_DEGREE = r"\^\{ ?\\circ ?\}"
_UNIT = rf"{_TEXT}|\\frac\{{ ?{_TEXT} ?\}}\{{|\\(?:mu|Omega|AA)(?![a-zA-Z])|{_DEGREE}"
_UNIT_TAIL = re.compile(rf"(?:{_UNIT})(?:{_UNIT}|\^\{{-?\d\}}|\\cdot|[ /()}}.])*$")
_BARE_TAIL = re.compile(r"(?<=[\d})!])( ?[A-Za-z]{2}[A-Za-z ./^{}0-9-]*| [A-Za-z]+/[A-Za-z/]+(?:\^\{\d\})?)$")
_BARE_WORD = re.compile(r"per|of|[ap]m|[a-z]{4,}", re.IGNORECASE)
_MODULUS = re.compile(r"[ ,(]*(?:\\[pb]?mod|\\text\{[ (]*mod|\bmod)(?![a-z])[ {}()]*([^{}()]+)[ {}()]*$")
_BASED = re.compile(r"\(?([+-]?[A-Fa-f]*\d[0-9A-Fa-f]*)\)?_\{(?:base)?\(?(\w+)\)?\}")
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_BASES = {word: base for base, word in enumerate(_NUMBER_WORDS.split())} | {"sixteen": 16}
_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-z])")
_PARTS = re.compile(rf"([\d.]+) ?({_TEXT}) ?")
_WORDS = re.compile(r"(?=[^A-Za-z]*[A-Za-z]{2})[A-Za-z0-9][A-Za-z0-9 '.:-]*")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?!(?:[^()\[\]{}]|\{[^{}]*\})*(?:[)\]]|\\\}))")
_CHOICE = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:? ?)\(?([A-J])\)?(?![A-Za-z])[.:)]?(.*)"
    r"|\(([A-J])\)(.*)|([A-J]) ?(?:\)|[.:](?= ))(.*)",
    re.IGNORECASE,
)
_NOT_AFTER_CHOICE = re.compile(r" *(?:[+*/^_=<>,;&]|and\b|or\b|\\(?:cup|cap|times|cdot|to|in|le|ge)\b|- )|-")


class Answer(NamedTuple):
    """One answer, or one part of it."""

    kind: str  # value, text, items (of a list, set, tuple or interval), union, equation or inequality
    latex: str  # without the unit; the words of a text
    items: tuple["Answer", ...] = ()  # in order
    marks: str = ""  # the brackets of items, the signs of an inequality; "choice" for the letter of one
    unit: Unit = Unit()  # of a value


@lru_cache(maxsize=50_000)
def readings(text: str) -> tuple[Answer, ...]:
    """The ways to read an answer: `1,250` is a number or a list, `(C) 15` the choice C or 15."""
    text = clean(text)
    depths = list(accumulate((c == "{") - (c == "}") for c in text))
    if min(depths, default=0) < 0 or depths[-1:] != [0]:
        return (Answer("text", text),)
    choice = _CHOICE.fullmatch(re.sub(_TEXT, lambda m: f"{unwrapped(m[0]).strip()} ", text).strip())
    letter, rest = (group for group in choice.groups() if group is not None) if choice else ("", "")
    if not letter.isupper() or _NOT_AFTER_CHOICE.match(rest):
        return _versions(text)
    return (Answer("text", letter, marks="choice"), *(_versions(rest.strip()) if rest.strip() else ()))


def _versions(text: str) -> tuple[Answer, ...]:
    """With the commas of thousands outside brackets removed, and as it is."""
    joined = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return tuple(read(version) for version in dict.fromkeys((joined, text)))


def read(text: str, depth: int = 0, is_text: bool = False) -> Answer:
    """Reads cleaned LaTeX; `is_text` if it comes from a `\\text{}`."""
    text = _peel(text)
    if depth > MAX_DEPTH:
        return Answer("value", text)
    if re.fullmatch(_TEXT, text):
        return read(unwrapped(text), depth + 1, True)
    marks, inside = _outer(text)
    if marks == "{}":  # {x : x > 3}
        parts, _ = split(inside, r"[|:]")
        if len(parts) == 2 and _VARIABLE.match(parts[0]) and _relation(parts[1])[1]:
            text = _peel(parts[1])
    parts, joints = split(text, _AND)
    joint = next((word for word in ("or", "and") if any(word in joint for joint in joints)), "")
    if region := _region([_relation(part) for part in parts], joint):
        return read(region, depth + 1)
    if len(parts) > 1 or _SIGNS.search(text):
        items = _read_all(parts, depth)
        is_or = joint == "or" and any(item.kind == "inequality" for item in items)
        return Answer("items", text, items, "or" if is_or else "")
    return _read_relation(text, depth) or _read_brackets(text, depth) or _read_value(text, is_text, depth)


def _read_all(parts: list[str], depth: int) -> tuple[Answer, ...]:
    """Reads the parts of a list; `a \\pm b` is two of them."""
    both = [[_SIGNS.sub(lambda m, s=s: s[m[0] == r"\mp"], part).strip("+ ") for s in ("+-", "-+")] for part in parts]
    return tuple(read(part, depth + 1) for signs in both for part in dict.fromkeys(signs) if part)


def _region(relations: list[tuple[list[str], list[str]]], joint: str) -> str:
    """The interval or union that inequalities of one variable describe, or "". `joint` is and, or, or "": commas."""
    sides, signs = relations[0]
    if signs == [r"\neq"] and _VARIABLE.fullmatch(sides[0]) and all(s in (signs, []) for _, s in relations):
        points = ",".join(sides[-1] for sides, _ in relations)
        return rf"\mathbb{{R}}\setminus\{{{points}\}}"
    intervals = [_interval(*relation) for relation in relations]
    if not all(intervals):
        return ""
    if len(intervals) == 2:  # x > 1 and x < 3
        low, high = sorted(intervals, key=lambda ends: ends[0] == r"-\infty")
        bounds = exact_number(low[0]), exact_number(high[1])
        if (low[1], high[0]) == (r"\infty", r"-\infty") and None not in bounds:
            if bounds[0] < bounds[1]:
                return r"\mathbb{R}" if joint == "or" else f"{low[2][0]}{low[0]},{high[1]}{high[2][1]}"
            if joint == "and" and bounds[0] > bounds[1]:
                return r"\emptyset"
    if len(intervals) > 1 and joint == "and":
        return ""
    return r"\cup ".join(f"{marks[0]}{low},{high}{marks[1]}" for low, high, marks in intervals)


def _relation(text: str) -> tuple[list[str], list[str]]:
    """The sides and signs of a chain of equations or inequalities, with `3 > x` as `x < 3`."""
    sides, signs = split(text, r"<|>|\\le|\\ge|\\neq|\\in|=|\\equiv|\\approx")
    if signs and signs[0] in _REVERSED:
        return sides[::-1], [_REVERSED.get(sign, sign) for sign in reversed(signs)]
    return sides, signs


def _interval(sides: list[str], signs: list[str]) -> tuple[str, str, str] | None:
    """`1 < x \\le 2` as its ends and brackets; None for anything else."""
    if len(signs) == 1:
        before = _VARIABLE.fullmatch(sides[0])
        sides, signs = ([r"-\infty", *sides], ["<", *signs]) if before else ([*sides, r"\infty"], [*signs, "<"])
    if len(signs) != 2 or not set(signs) <= {"<", r"\le"} or not _VARIABLE.fullmatch(sides[1]) or not all(sides):
        return None
    return sides[0], sides[2], ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")


def _read_relation(text: str, depth: int) -> Answer | None:
    sides, signs = _relation(text)
    if not signs:
        return None
    if signs[-1] == r"\approx":
        exact = text[: text.rindex(r"\approx")].strip()
        return read(sides[-1] if not exact or NAME.fullmatch(exact) else exact, depth + 1)
    if signs == [r"\in"] and (_VARIABLE.fullmatch(sides[0]) or _outer(sides[1])[0]):
        return read(sides[1], depth + 1)
    if not set(signs) <= {"=", r"\equiv"}:
        latex = "".join(f"{side} {sign} " for side, sign in zip(sides, [*signs, ""], strict=True)).strip()
        return Answer("inequality", latex, marks=" ".join(signs))
    names, values = (split(_outer(side)[1], _AND)[0] for side in (sides[0], sides[-1]))
    if len(names) == len(values) > 1 and _outer(sides[0])[0] and all(map(_VARIABLE.fullmatch, names)):
        return read(", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True)), depth + 1)
    sides = [side for side in sides if side]
    if sides and NAME.fullmatch(sides[-1]) and not NAME.fullmatch(sides[0]):  # 5 = x
        sides.reverse()
    if len(sides) < 2:
        return read(sides[0], depth + 1) if sides else Answer("value", text)
    return Answer("equation", "=".join(sides), tuple(read(side, depth + 1) for side in sides))


def _read_brackets(text: str, depth: int) -> Answer | None:
    """Sets, tuples, intervals, unions and columns."""
    if text == r"\mathbb{R}":
        return read(r"(-\infty,\infty)", depth + 1)
    parts, signs = split(text, r"\\cup|\\setminus")
    if signs:
        return Answer("union", text.replace(";", ","), () if r"\setminus" in signs else _read_all(parts, depth))
    if text.startswith(r"\begin{pmatrix}") and text.endswith(r"\end{pmatrix}") and "&" not in text:  # a column
        rows, _ = split(text[15:-13], r"\\\\")
        return read(f"({','.join(rows)})", depth + 1)
    marks, inside = _outer(text)
    if not marks or text.startswith("{"):
        return None
    items = _read_all(split(inside, _AND)[0], depth)
    if marks == "{}":
        items = tuple({item.latex: item for item in items}.values())
    return items[0] if len(items) == 1 else Answer("items", text, items, marks)


def _read_value(text: str, is_text: bool, depth: int) -> Answer:
    """A number, an expression or words, with what is known of its unit."""
    if (match := _MODULUS.search(text)) and match.start() and not _VARIABLE.fullmatch(text[: match.start()].strip()):
        modulus = Unit(powers=frozenset({(f"mod {match[1].strip()}", 1)}))
        return read(text[: match.start()], depth + 1)._replace(unit=modulus)
    if match := _BASED.fullmatch(unwrapped(text).replace(" ", "")):
        base = _BASES.get(match[2], match[2])
        try:
            return Answer("value", str(int(match[1], int(base))), unit=Unit(powers=frozenset({(f"base {base}", 1)})))
        except ValueError:  # no such base, or a digit too high for it
            return Answer("text", text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", text):
        text = re.sub(rf"(\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+|\([^()]*\)) ?{_DEGREE}", r"(\1\\frac{\\pi}{180})", text)
    value, unit = _sum_of_parts(text) or _without_unit(text)
    words = unwrapped(value).strip(" .")
    if _WORDS.fullmatch(words) and (is_text or (words != value and not value[-1].isdigit())):
        return Answer("text", words)
    if value == text:
        return Answer("text" if value == r"\emptyset" else "value", value)
    inner = read(value, depth + 1, is_text)
    return inner._replace(unit=unit) if inner.kind == "value" else inner


def _sum_of_parts(text: str) -> tuple[str, Unit] | None:
    """`1\\text{ hour } 30\\text{ minutes}` in its first unit."""
    parts = _PARTS.findall(text)
    units = [read_unit(unwrapped(unit).replace(" and ", "")) for _, unit in parts]
    numbers = [exact_number(number) for number, _ in parts]
    if len(parts) < 2 or _PARTS.sub("", text) or None in units + numbers or len({unit.powers for unit in units}) > 1:
        return None
    total = sum(number * unit.scale for number, unit in zip(numbers, units, strict=True))
    return str(total / units[0].scale), units[0]


def _without_unit(text: str) -> tuple[str, Unit]:
    """Splits the unit from the end of a value. Text that says more than a unit stays."""
    if match := _BARE_TAIL.search(text):
        words = re.findall(r"[A-Za-z]+", match[1])
        is_unit = match[1][0] == " " or known_unit(words[0])
        if is_unit and all(known_unit(word) or _BARE_WORD.fullmatch(word) for word in words):
            text = rf"{text[: match.start()]}\text{{{match[1]}}}"
    match = _UNIT_TAIL.search(text)
    value = text[: match.start()].strip() if match else ""
    if not value or value[-1] in "+-=*/^_" or value.count("{") != value.count("}"):
        return text, Unit()
    flat = re.sub(_DEGREE, " degree ", match[0].replace(r"\frac", ""))
    flat = re.sub(r"\} ?\{", " / ", re.sub(_TEXT, lambda m: f" {unwrapped(m[0])} ", flat))
    unit = read_unit(re.sub(r"(?<!\^)\{|\}", " ", flat))
    if unit and re.search(_DEGREE, value):
        return re.sub(_DEGREE, " ", value).strip(), read_unit("degree")
    return (value, unit) if unit else (text, Unit())


def unwrapped(text: str) -> str:
    """`\\text{...}` without the command."""
    return re.sub(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1", text)


def split(text: str, separators: str) -> tuple[list[str], list[str]]:
    """Splits at separators outside all brackets and braces: the parts, and the separators between them."""
    parts, found, start, depth = [], [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and re.fullmatch(separators, token):
            parts.append(text[start : match.start()].strip())
            found.append(token)
            start = match.end()
    return [*parts, text[start:].strip()], found


def _outer(text: str) -> tuple[str, str]:
    """The brackets around the whole text, such as `[)`, and what they hold; "" and the text if there are none."""
    depth, opening = 0, ""
    for match in _TOKEN.finditer(text) if text.startswith(_OPEN[:-1]) else ():
        token = match.group()
        opening = opening or token
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0:
            whole = match.end() == len(text)
            return (opening[-1] + token[-1], text[len(opening) : match.start()].strip()) if whole else ("", text)
    return "", text


def _peel(text: str) -> str:
    """Removes groups around the whole text, and brackets around a single item."""
    for _ in range(MAX_DEPTH):
        marks, inside = _outer(text)
        if not marks or (not text.startswith("{") and (marks not in ("()", "[]") or len(split(inside, _AND)[0]) > 1)):
            break
        text = inside
    return text
