"""Compares a model's answer with a reference answer: text, exact numbers and structure first, algebra for the rest.

`equal` has three outcomes. True and False are decided here in microseconds, without evaluating anything a model wrote.
None means that only a computer algebra system can tell; with such a system as `symbolic` there is always a verdict.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from redi.evaluation.grading.exact_numbers import exact_number
from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS, clean, has_text, strip_unit, unwrap_text
from redi.evaluation.grading.numeric_probe import differ, value

Symbolic = Callable[[str, str], bool]

MAX_ITEMS = 100
MAX_DEPTH = 8

_OPEN = ("(", "[", "{", r"\{")
_CLOSE = (")", "]", "}", r"\}")
_BASED_RE = re.compile(r"[+-]?[0-9A-Fa-f]+_\{\d+\}")
_WORDS_RE = re.compile(r"(?=[^A-Za-z]*[A-Za-z]{2})[A-Za-z0-9][A-Za-z0-9 '.:-]*")
_ARTICLE_RE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_SPACES_RE = re.compile(r"(?<!\d) | (?!\d)")
_MEMBER_RE = re.compile(r"^[A-Za-z](?:_\{\w+\})? ?\\in(?![a-zA-Z]) ?")
_EQUALS_RE = re.compile(r"(?<![<>!])=")
_NAME_RE = re.compile(r"\|?\\?[A-Za-z]+(?:_\{[^{}]*\})?'*(?: ?\([^()]*\))?\|?")
_LOG_RE = re.compile(r"\\log(?![a-zA-Z]| ?_)")
_MATRIX_RE = re.compile(r"\\begin ?\{pmatrix\}(.*)\\end ?\{pmatrix\}")
_VARIABLE_RE = re.compile(r"[A-Za-z](?:_\{\w+\})?")
_ORDER_RE = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))")
_TOKEN_RE = re.compile(r"\\[a-zA-Z]+|\\.|[()\[\]{},;]")


def equal(gold: str, answer: str, symbolic: Symbolic | None = None) -> bool | None:
    """Whether two answers are equal.

    Args:
        gold: the reference answer, in LaTeX, with or without dollar signs.
        answer: the content of the model's box.
        symbolic: decides the items (gold, answer) that text and numbers cannot.

    Returns:
        True or False; None if undecided, which never happens with `symbolic`.
    """
    gold, answer = gold.strip(), answer.strip()
    if max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
        return gold == answer
    gold, answer = _same_logarithm(cleaned(gold), cleaned(answer))
    if _squeeze(gold) == _squeeze(answer) and answer:
        return True
    return _compare(gold, answer, symbolic, 0)


@lru_cache(maxsize=50_000)
def cleaned(text: str) -> str:
    """`clean`, then drops groups around the whole answer and everything after an approximation sign."""
    text = _peel(clean(text))
    exact, sign, _ = text.partition(r"\approx")
    if sign and exact.strip() and not _NAME_RE.fullmatch(exact.strip()):
        text = exact.rstrip()
    return _MEMBER_RE.sub("", text)


def _same_logarithm(gold: str, answer: str) -> tuple[str, str]:
    """Reads a `\\log` without a base as `\\ln` if the other side writes only `\\ln`."""
    for name, other in ((gold, answer), (answer, gold)):
        if r"\ln" in name and r"\log" not in name and r"\ln" not in other:
            return _LOG_RE.sub(r"\\ln", gold), _LOG_RE.sub(r"\\ln", answer)
    return gold, answer


def _squeeze(text: str) -> str:
    return _SPACES_RE.sub("", text)


def _compare(gold: str, answer: str, symbolic: Symbolic | None, depth: int) -> bool | None:
    gold, answer = _peel(gold), _peel(answer)
    if depth > MAX_DEPTH or not answer:
        return False
    gold_items, answer_items = _expand(split(gold)), _expand(split(answer))
    if len(gold_items) == len(answer_items) == 1:
        return _compare_item(gold, answer, symbolic, depth)
    numbers = exact_number(gold), exact_number(answer)  # a thousands separator looks like a list
    if None not in numbers and (numbers[0] == numbers[1] or 1 in (len(gold_items), len(answer_items))):
        return numbers[0] == numbers[1]
    if len(gold_items) == len(answer_items):
        return _unordered(gold_items, answer_items, symbolic, depth)
    if brackets(gold) or brackets(answer):  # a tuple and a list without parentheses
        gold_items = split(gold[1:-1]) if brackets(gold) == "()" else gold_items
        answer_items = split(answer[1:-1]) if brackets(answer) == "()" else answer_items
        return _ordered(gold_items, answer_items, symbolic, depth)
    intervals = [relation_interval(item) for item in answer_items]
    if r"\cup" in gold and all(intervals):  # x<1 or x>3
        return _compare(gold, r" \cup ".join(intervals), symbolic, depth + 1)
    return False


def _compare_item(gold: str, answer: str, symbolic: Symbolic | None, depth: int) -> bool | None:
    """Compares two answers that are single items."""
    is_text = has_text(gold) or has_text(answer)
    gold, gold_unit = _bare_item(gold)
    answer, answer_unit = _bare_item(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit and "?" not in gold_unit + answer_unit:
        return False
    if _squeeze(gold) == _squeeze(answer):
        return True
    numbers = exact_number(gold), exact_number(answer)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _WORDS_RE.fullmatch(gold) and _WORDS_RE.fullmatch(answer):
        if _ARTICLE_RE.sub("", gold).lower() == _ARTICLE_RE.sub("", answer).lower() and (is_text or len(gold) > 3):
            return True
        if is_text:  # elsewhere letters may be variables, whose product has no order
            return False
    if _BASED_RE.fullmatch(_squeeze(gold)) or _BASED_RE.fullmatch(_squeeze(answer)):
        return False  # 10_2 is neither 10 nor 2; the same digits in the same base are equal as text
    return _compare_brackets(gold, answer, symbolic, depth)


def _compare_brackets(gold: str, answer: str, symbolic: Symbolic | None, depth: int) -> bool | None:
    """Compares tuples, intervals, unions of intervals and matrices. One side may be written as a relation."""
    gold_kind, answer_kind = brackets(gold), brackets(answer)
    if gold_kind and answer_kind:
        same = gold_kind == answer_kind
        return same and _ordered(split(gold[1:-1]), split(answer[1:-1]), symbolic, depth)
    if answer_kind and relation_interval(gold):
        return _compare(relation_interval(gold), answer, symbolic, depth + 1)
    if gold_kind and relation_interval(answer):
        return _compare(gold, relation_interval(answer), symbolic, depth + 1)
    if (_is_set(gold) and value(answer) is not None) or (_is_set(answer) and value(gold) is not None):
        return False
    if _MATRIX_RE.fullmatch(gold) and _MATRIX_RE.fullmatch(answer):
        gold_rows, answer_rows = _matrix_rows(gold), _matrix_rows(answer)
        same_shape = [len(row) for row in gold_rows] == [len(row) for row in answer_rows]
        return same_shape and _ordered(sum(gold_rows, []), sum(answer_rows, []), symbolic, depth)
    gold_parts, answer_parts = split(gold, (r"\cup",)), split(answer, (r"\cup",))
    if len(gold_parts) == len(answer_parts) > 1 and _unordered(gold_parts, answer_parts, symbolic, depth):
        return True
    return _compare_equations(gold, answer, symbolic, depth)


def _compare_equations(gold: str, answer: str, symbolic: Symbolic | None, depth: int) -> bool | None:
    """Compares equations. If one side only names the result (`f(x) = ...`), the last sides are compared."""
    gold_sides, answer_sides = _EQUALS_RE.split(gold), _EQUALS_RE.split(answer)
    named = len(gold_sides) > 1 and _NAME_RE.fullmatch(gold_sides[0].strip()) is not None
    if len(answer_sides) > 1 and len(gold_sides) == 1:
        return _compare(gold, answer_sides[-1].strip(), symbolic, depth + 1)
    if named and (len(answer_sides) == 1 or _squeeze(gold_sides[0]) == _squeeze(answer_sides[0])):
        return _compare(gold_sides[-1].strip(), answer_sides[-1].strip(), symbolic, depth + 1)
    if len(answer_sides) == 1 and all(differ(side.strip(), answer) for side in gold_sides):
        return False
    return symbolic(gold, answer) if symbolic else None


@lru_cache(maxsize=50_000)
def _bare_item(item: str) -> tuple[str, str]:
    """An item without its unit, font commands and outer groups; and its unit."""
    item, outer = strip_unit(item)
    item, inner = strip_unit(_peel(unwrap_text(item)))
    return item, outer or inner


def _is_set(item: str) -> bool:
    """Whether an item is a tuple, an interval, a union or a matrix, so it cannot be a number."""
    return brackets(item) != "" or r"\cup" in item or "{pmatrix}" in item


def _matrix_rows(text: str) -> list[list[str]]:
    rows = _MATRIX_RE.fullmatch(text)[1].strip().removesuffix(r"\\").split(r"\\")
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _ordered(gold: list[str], answer: list[str], symbolic: Symbolic | None, depth: int) -> bool | None:
    if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
        return False
    undecided = False
    for gold_item, answer_item in zip(gold, answer, strict=True):
        verdict = _compare(gold_item, answer_item, symbolic, depth + 1)
        if verdict is False:
            return False
        undecided = undecided or verdict is None
    return None if undecided else True


def _unordered(gold: list[str], answer: list[str], symbolic: Symbolic | None, depth: int) -> bool | None:
    """Each reference item takes the first equal answer item that is left."""
    if len(gold) > MAX_ITEMS:
        return False
    left, undecided = list(answer), False
    for item in gold:
        verdicts = []
        for candidate in left:
            verdicts.append(_compare(item, candidate, symbolic, depth + 1))
            if verdicts[-1]:
                break
        if True in verdicts:
            left.pop(len(verdicts) - 1)
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _expand(items: list[str]) -> list[str]:
    """Splits `a \\pm b` into two items."""
    return [part for item in items for part in _two_signs(item)]


def _two_signs(item: str) -> list[str]:
    if item.count(r"\pm") != 1:
        return [item]
    return [item.replace(r"\pm", "+").lstrip("+ "), item.replace(r"\pm", "-")]


def relation_interval(text: str) -> str:
    """`1 < x \\le 2` -> `(1,2]`, `x > 3` -> `(3,\\infty)`. The empty string for anything else."""
    parts = [part.strip() for part in _ORDER_RE.split(text)]
    if len(parts) not in (3, 5) or not all(parts):
        return ""
    if parts[1] in (">", r"\ge"):
        parts = [{">": "<", r"\ge": r"\le"}.get(part, part) for part in reversed(parts)]
    if any(sign not in ("<", r"\le") for sign in parts[1::2]):
        return ""
    if len(parts) == 3:
        parts = [r"-\infty", "<", *parts] if _VARIABLE_RE.fullmatch(parts[0]) else [*parts, "<", r"\infty"]
    low, low_sign, variable, high_sign, high = parts
    if not _VARIABLE_RE.fullmatch(variable):
        return ""
    return f"{'(' if low_sign == '<' else '['}{low},{high}{')' if high_sign == '<' else ']'}"


def split(text: str, separators: tuple[str, ...] = (",", ";")) -> list[str]:
    """Splits `text` at separators outside all brackets."""
    parts, start, depth = [], 0, 0
    for match in _TOKEN_RE.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
        elif token in separators and depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _outer(text: str) -> tuple[str, str] | None:
    """The pair of brackets around the whole text, or None."""
    depth, opening = 0, ""
    for match in _TOKEN_RE.finditer(text):
        token = match.group()
        if token in _OPEN:
            opening = opening or (token if match.start() == 0 else "")
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
                return (opening, token) if opening and match.end() == len(text) else None
    return None


def brackets(text: str) -> str:
    """`()`, `[]`, `(]` or `[)` around a text of several items, or the empty string."""
    if not text.startswith(("(", "[")) or not text.endswith((")", "]")):
        return ""
    return "".join(_outer(text) or "") if len(split(text[1:-1])) > 1 else ""


def _peel(text: str) -> str:
    """Removes groups and set braces around the whole text, and parentheses around a single item."""
    for _ in range(MAX_DEPTH):
        if not text.startswith(("{", r"\{", "(")) or not text.endswith(("}", ")")):
            break
        pair = _outer(text)
        if pair not in (("{", "}"), (r"\{", r"\}"), ("(", ")")) or (pair[0] == "(" and brackets(text)):
            break
        text = text[len(pair[0]) : len(text) - len(pair[1])].strip()
    return text
