"""Compares the structures of two answers; algebra is left to `symbolic`, which `symbolic.py` provides."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS, clean
from redi.evaluation.grading.quantities import exact_number, read_unit
from redi.evaluation.grading.structure import NAME, Answer, readings, unwrapped

Symbolic = Callable[[str, str], bool]

MAX_ITEMS = 100

_SPACES = re.compile(r"(?<!\d) | (?!\d)")
_TIME = re.compile(r"\d{1,2}:[0-5]\d")
_WORD = re.compile(r"[A-Z]{3,}|[A-Za-z][A-Za-z '-]{3,}")
# A name (a letter or word with its accent, subscript and primes), or another command, whose letters are not names.
NAMES = re.compile(
    r"((?:\\(?:text|bar|hat|tilde|vec|d?dot|mathcal) ?(?:\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-z])|\\angle ?[A-Z]{3}"
    r"|\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi"
    r"|chi|psi|omega|ell|hbar|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega)(?![a-zA-Z])|[A-Za-z])"
    r"(?:_\{(?:[^{}=]|\{[^{}]*\})*\})?(?:\^\{\*\})?'*)|\\(?:begin|end|mathbb)\{\w+\}|\\[a-zA-Z]+"
)
_BOUND = re.compile(r"\\(?:sum|prod|int|iint|lim|max|min|sup|inf)(?![a-z])|[A-Za-z] ?\\to")
_LOG = re.compile(r"\\log(?![a-zA-Z]| ?_)")
_PERCENT = read_unit("percent").powers


def equal(gold: str, answer: str, symbolic: Symbolic) -> bool:
    """Whether a reference answer, in LaTeX with or without dollar signs, equals the content of a model's box.

    `symbolic` decides the expressions (gold, answer) that text and numbers cannot.
    """
    gold, answer = gold.strip(), answer.strip()
    if max(len(gold), len(answer)) > MAX_ANSWER_CHARS or not answer:
        return gold == answer != ""
    if _squeeze(clean(gold)) == _squeeze(clean(answer)) != "":
        return True
    golds, answers = readings(gold), readings(answer)
    heads = golds[0], answers[0]
    is_choice = [head.marks == "choice" for head in heads]
    if any(is_choice) and all(is_choice[i] or re.fullmatch("[A-J]", heads[i].latex) for i in (0, 1)):
        # the letters, then what follows both
        if golds[0].latex != answers[0].latex or 1 in (len(golds), len(answers)):
            return golds[0].latex == answers[0].latex
        golds, answers = golds[1:], answers[1:]
    return any(_compare(g, a, symbolic) for g in golds for a in answers)


def _squeeze(text: str) -> str:
    return _SPACES.sub("", text)


def _ask(symbolic: Symbolic, gold: str, answer: str) -> bool:
    """Expressions of different variables differ. Beside a `\\ln`, a `\\log` is one too."""
    if not _BOUND.search(gold + answer) and _variables(gold) != _variables(answer):
        return False
    if r"\ln" in gold + answer:
        gold, answer = _LOG.sub(r"\\ln", gold), _LOG.sub(r"\\ln", answer)
    return symbolic(gold, answer)


@lru_cache(maxsize=50_000)
def _variables(latex: str) -> frozenset[str]:
    return frozenset(match[1] for match in NAMES.finditer(latex)) - {None, "e", "i"}


def _compare(gold: Answer, answer: Answer, symbolic: Symbolic) -> bool:
    kinds = {gold.kind, answer.kind}
    if kinds == {"value"}:
        return _compare_values(gold, answer, symbolic)
    if "equation" in kinds:
        return _compare_equations(gold, answer, symbolic)
    if "text" in kinds:
        first, second = (re.sub(r"^(?i:an?|the) +", "", unwrapped(item.latex).strip(" .")) for item in (gold, answer))
        same = first == second or (len(first) > 1 and first.lower() == second.lower())
        return same and kinds <= {"text", "value"}
    if kinds == {"items"}:
        return _compare_items(gold, answer, symbolic)
    if kinds == {"union"} and gold.items and _same_items(gold.items, answer.items, symbolic, ordered=False):
        return True
    if "inequality" in kinds and kinds <= {"inequality", "items", "union"} and len(kinds) == 2:
        return symbolic(gold.latex, answer.latex)  # and its solutions, which have no variable
    same_kind = gold.marks == answer.marks if kinds == {"inequality"} else kinds <= {"union", "items"}
    matrices = "{pmatrix}" in gold.latex and "{pmatrix}" in answer.latex
    return (same_kind or matrices) and _ask(symbolic, gold.latex, answer.latex)


def _compare_values(gold: Answer, answer: Answer, symbolic: Symbolic) -> bool:
    """A unit may be missing on one side; different units are converted or differ."""
    powers = gold.unit.powers, answer.unit.powers
    scale = gold.unit.factor / answer.unit.factor
    if all(powers):
        if powers[0] != powers[1]:
            return False
        scale *= gold.unit.scale / answer.unit.scale
    numbers = exact_number(gold.latex), exact_number(answer.latex)
    if None not in numbers and set(powers) == {frozenset(), _PERCENT}:  # 25 % and 0.25
        percent, share = numbers if powers[0] else numbers[::-1]
        if abs(share) <= 1 and percent == 100 * share:
            return True
    if _squeeze(gold.latex) == _squeeze(answer.latex):
        return scale == 1
    if _TIME.fullmatch(gold.latex):
        return gold.latex.lstrip("0") == answer.latex.lstrip("0")
    if None not in numbers:
        return numbers[0] * scale == numbers[1]
    if _WORD.fullmatch(gold.latex) and _WORD.fullmatch(answer.latex):
        if gold.latex.lower() == answer.latex.lower():
            return True
        if gold.latex.isupper() or answer.latex.isupper() or " " in gold.latex + answer.latex:
            return False  # words; other letters may be variables, whose product has no order
    factor = "" if scale == 1 else rf"\cdot\frac{{{scale.numerator}}}{{{scale.denominator}}}"
    return _ask(symbolic, f"({gold.latex}){factor}" if factor else gold.latex, answer.latex)


def _compare_equations(gold: Answer, answer: Answer, symbolic: Symbolic) -> bool:
    """Compares equations, or a value with the side of an equation that names or computes it."""
    if gold.kind == answer.kind:
        if _name(gold) and _name(gold) == _name(answer):
            return _compare(gold.items[-1], answer.items[-1], symbolic)
        if len(gold.items) == len(answer.items) == 2:
            return _ask(symbolic, gold.latex, answer.latex)
        return _same_items(gold.items, answer.items, symbolic, ordered=True)
    equation = gold if gold.kind == "equation" else answer
    numeric = [side for side in equation.items if not _variables(side.latex)]
    if equation is gold and not _name(gold) and len(numeric) < len(gold.items):
        return False
    pairs = (((side, answer) if equation is gold else (gold, side)) for side in [equation.items[-1], *numeric])
    return all(_compare(*pair, symbolic) for pair in pairs)


def _name(item: Answer) -> str:
    """What an equation names: `f` of `f(x) = 2x`; the empty string for other answers."""
    first = item.items[0].latex if item.kind == "equation" else ""
    return _squeeze(re.sub(r"\([^()]*\)$", "", first)) if NAME.fullmatch(first) else ""


def _compare_items(gold: Answer, answer: Answer, symbolic: Symbolic) -> bool:
    """The order counts unless both are lists or sets. A list equals a tuple in the same order."""
    marks = {gold.marks, answer.marks}
    if marks <= {"", "{}"} or marks == {"or"}:
        return _same_items(gold.items, answer.items, symbolic, ordered=False)
    if len(marks) == 2 and marks != {"", "()"} and (marks != {"", "[]"} or len(gold.items) < 3):
        return False
    by_name = (sorted(side.items, key=_name) if all(map(_name, side.items)) else side.items for side in (gold, answer))
    return _same_items(*by_name, symbolic, ordered=True)


def _same_items(gold: Sequence[Answer], answer: Sequence[Answer], symbolic: Symbolic, ordered: bool) -> bool:
    """Compares item by item, or finds for each reference item the first equal answer item that is left."""
    if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
        return False
    left = list(answer)
    for item in gold:
        candidates = left[:1] if ordered else left
        taken = next((candidate for candidate in candidates if _compare(item, candidate, symbolic)), None)
        if taken is None:
            return False
        left.remove(taken)
    return True
