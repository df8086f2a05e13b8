"""The second verdict, for comparison with published numbers: what the paper's final grader would have decided.

That grader (from rllm, the DeepScaleR project) compares strings in two normal forms. If both sides are simple
expressions, it asks sympy whether their difference is zero. It knows no sets, no equations beyond a short name on the
left, and no time limit. A list must be in the same order and a fraction spelled the same way. These are
its rules, implemented again with their known errors (`60 \\text{ or } 120` passes for 60).
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from tokenize import TokenError

from redi.evaluation.grading.answer import THINK_END
from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS, SYMBOLS
from redi.evaluation.grading.quantities import exact_number

Symbolic = Callable[[str, str], bool]

_WHOLE_TEXT = re.compile(r"\\text\{(.+?)\}")
_FRACTION_START = re.compile(r"\\frac([^{\s])([^{\s]|\{)")
_SLASH = re.compile(r"(-?\d+)/(-?\d+)")
_UNITS = "degree|centimeter|cm|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard"
_UNIT = re.compile(rf"(?:{_UNITS})(?:es)?s? *(?:\^[0-9]+)?")
_POWERS = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:$|\D))")
_MIXED = re.compile(r"(\d) +(\d)")
_PLAIN_FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
_TOO_HIGH = re.compile(r"\^[0-9]+\^|\^[0-9]{2,}|\^[({]")
_HANGING_DOT = re.compile(r"(?:[^\d]|\.\d+)\.$")  # `0.5.` is not Python
# What sympy may read. Its parser runs Python's eval, so nothing else may reach it.
_SAFE = re.compile(r"(?:[^\W_]|[+\-*/^().! ])+")
_GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_LATEX = [
    (re.compile(r"\\[dt]?frac\s*" + _GROUP + r"\s*" + _GROUP), r" \1/\2"),  # no parentheses: one of its errors
    (re.compile(r"\\sqrt\s*(?:\[[^\]]*\])?\s*" + _GROUP), r"sqrt(\1)"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathbb)\s*" + _GROUP), r"\1"),
]
_NAMES = {latex: symbol for symbol, latex in SYMBOLS.items()}
_NAMES |= {r"\pi": "pi", r"\infty": "inf", r"\cdot": "*", r"\times": "*", r"\cup": "u", r"\leq": _NAMES[r"\le"]}
_NAMES |= {r"\geq": _NAMES[r"\ge"], r"\{": "{", r"\}": "}"} | dict.fromkeys((r"\,", r"\;", r"\:", r"\ "), " ")
_FUNCTIONS = re.compile(r"\\(?:(?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp|min|max|det)")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.")


def rllm_answer(response: str) -> str | None:
    """The box that the original grades: the last one between the first and the second `</think>`, or None.

    The brace must directly follow `\\boxed`, and an escaped brace counts like any other.
    """
    parts = response.split(THINK_END, 2)
    if len(parts) < 2:
        return None
    _, box, rest = parts[1].rpartition("\\boxed")
    if not box or not rest.startswith("{"):
        return None
    depth = 0
    for match in re.finditer(r"[{}]", rest):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return rest[1 : match.start()]
    return None


def rllm_equal(gold: str, answer: str, symbolic: Symbolic) -> bool:
    """Whether the original accepts `answer` for `gold`. `symbolic` says whether two expressions differ by zero."""
    if len(answer) > MAX_ANSWER_CHARS:
        return answer == gold
    if _text_form(gold) == _text_form(answer):
        return True
    gold, answer = _value_form(gold), _value_form(answer)
    if gold == answer and gold:
        return True
    if not answer:
        return False
    gold_items, answer_items = _items(gold), _items(answer)
    if len(gold_items) != len(answer_items):
        return False
    if len(gold_items) > 1 and (gold[0], gold[-1]) != (answer[0], answer[-1]):
        return False
    return all(_same_item(*items, symbolic) for items in zip(gold_items, answer_items, strict=True))


def _same_item(gold: str, answer: str, symbolic: Symbolic) -> bool:
    if _PLAIN_FRACTION.fullmatch(gold) and _PLAIN_FRACTION.fullmatch(answer):
        return gold == answer
    if _is_integer(gold) != _is_integer(answer):
        return False
    numbers = exact_number(gold), exact_number(answer)
    if None not in numbers:
        return numbers[0] == numbers[1]
    letters = [{c for c in text.replace("sqrt", "").replace("frac", "") if c.isalpha()} for text in (gold, answer)]
    readable = _SAFE.fullmatch(gold) and _SAFE.fullmatch(answer)
    if len(letters[0] | letters[1]) > 2 or not readable or _TOO_HIGH.search(gold) or _TOO_HIGH.search(answer):
        return False
    if _HANGING_DOT.search(gold) or _HANGING_DOT.search(answer) or (letters[0] ^ letters[1]) - set("pie"):
        return False
    return symbolic(gold, answer)


@lru_cache(maxsize=50_000)
def _text_form(text: str) -> str:
    """The normal form of the MATH benchmark's grader: a string without differences in notation."""
    text = text.strip()
    if match := _WHOLE_TEXT.fullmatch(text):
        text = match[1].strip()
    text = text.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(r"\left", "").replace(r"\right", "")
    text = text.replace(r"^{\circ}", "").replace(r"^\circ", "").replace(r"\$", "")
    if text.count(r"\text{ ") == 1:  # treated as a unit, whatever it says
        text = text[: text.index(r"\text{ ")]
    text = text.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = f"0{text}" if text.startswith(".") else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = _FRACTION_START.sub(lambda m: rf"\frac{{{m[1]}}}" + (m[2] if m[2] == "{" else f"{{{m[2]}}}"), text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    if match := _SLASH.fullmatch(text):
        text = rf"\frac{{{int(match[1])}}}{{{int(match[2])}}}"
    return text


@lru_cache(maxsize=50_000)
def _value_form(text: str) -> str:
    """The normal form that is split into items and passed to sympy."""
    if match := _WHOLE_TEXT.fullmatch(text.strip()):
        text = match[1]
    text = text.replace(r"\%", "").replace(r"\$", "").replace("$", "").replace("%", "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, power in _POWERS.items():
        text = text.replace(word, power)
    text = re.sub(r"\^ *\\circ", "", _UNIT.sub("", text))
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    value = _float(text)
    if value is not None and value.denominator == 1:
        text = str(value)
    if "\\" in text:
        text = _latex_as_text(text)
    text = _MIXED.sub(r"\1+\2", re.sub(r"- *", "-", text.strip()))
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return text.replace(",", "") if _is_integer(text) else text


def _latex_as_text(text: str) -> str:
    """LaTeX as plain text: fractions with a slash, roots as functions, symbols by name, without groups."""
    for _ in range(4):  # as deep as any reference answer is nested
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)", r" \1/\2", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"sqrt(\1)", text)
    return _COMMAND.sub(lambda m: m[0][1:] if _FUNCTIONS.fullmatch(m[0]) else _NAMES.get(m[0], ""), text)


def _float(text: str) -> Fraction | None:
    return exact_number(text) if re.fullmatch(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*", text) else None


def _is_integer(text: str) -> bool:
    value = _float(_THOUSANDS.sub("", text))
    return value is not None and abs(value - round(value)) <= Fraction(1, 10**7)


def _items(text: str) -> list[str]:
    """The elements of one tuple or interval; any other text is one item."""
    if not text:
        return []
    text = _THOUSANDS.sub("", text)
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not set("()[]") & set(text[1:-1]):
        return [item.strip() for item in text[1:-1].split(",")]
    return [text]


def zero_difference(gold: str, answer: str) -> bool:
    """Whether sympy simplifies the difference of two plain expressions to zero. `rllm_equal` has vetted both."""
    from sympy import simplify  # only workers ask, and other processes must start fast
    from sympy.parsing import sympy_parser

    text = f"({gold})-({answer})".replace("^", "**")
    rules = (*sympy_parser.standard_transformations, sympy_parser.implicit_multiplication_application)
    try:
        return bool(simplify(sympy_parser.parse_expr(text, transformations=rules)) == 0)
    except (ArithmeticError, AttributeError, SyntaxError, TypeError, ValueError, TokenError):  # not an expression
        return False
