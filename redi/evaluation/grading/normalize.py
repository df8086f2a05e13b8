"""Rewrites LaTeX answers to one spelling: characters, spacing, fonts, delimiters. Values and the order of items stay.

After `clean`, words and upright symbols are `\\text{...}` without nested commands, and units are still in place.
"""

import re
import unicodedata
from functools import lru_cache

# Longer answers are compared verbatim: the longest reference answer has a few hundred characters, and rules take time.
MAX_ANSWER_CHARS = 2000

_LATEX_NAMES = r"""\infty ^\circ \times \cdot \cdot \sqrt \le \ge \neq \approx \pm \cup \cap \in \emptyset \alpha \beta
    \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \pi \rho \sigma \tau \upsilon \phi
    \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega"""
_SYMBOLS = "∞°×·⋅√≤≥≠≈±∪∩∈∅αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
CHARACTERS = {ord(character): f"{name} " for character, name in zip(_SYMBOLS, _LATEX_NAMES.split(), strict=True)}
CHARACTERS |= dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011"), "-") | dict.fromkeys(map(ord, "÷\u2215"), "/")
CHARACTERS |= {ord("ℝ"): r"\mathbb{R}", ord("。"): "."} | dict.fromkeys(map(ord, "€£\u200b\u200c\u200d\ufeff"), "")
# `paper_grader.py` spells commands by the table above, so what only `clean` reads is apart.
_MORE = {"\u2014": "-", "\u2032": "'", "€": r"\text{euros}", "£": r"\text{sterling}", "µ": r"\mu ", "≡": r"\equiv "}
_CLEANED = CHARACTERS | {ord(character): latex for character, latex in _MORE.items()}
_SCRIPTS = {"^": re.compile("[⁰¹²³⁴-⁻ⁿ]+"), "_": re.compile("[₀-₋]+")}
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")

# Commands by their replacement. An empty replacement drops size, spacing and alignment.
_COMMANDS = {
    "": "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm displaystyle textstyle "
    "scriptstyle limits nolimits hline tiny small normalsize large Large LARGE huge Huge rm it sf bf boxed fbox bold "
    "mathbf mathrm mathit boldsymbol bm text underline mbox checkmark square blacksquare",
    " ": "quad qquad",
    r"\frac": "dfrac tfrac cfrac",
    r"\binom": "tbinom dbinom",
    r"\{": "lbrace",
    r"\}": "rbrace",
    "(": "langle",
    ")": "rangle",
    "|": "lvert rvert vert mid",
    r"\le ": "leq leqslant",
    r"\ge ": "geq geqslant",
    "<": "lt",
    ">": "gt",
    r"\neq ": "ne",
    r"\approx ": "simeq cong doteq",
    r"\ldots ": "dots cdots dotsc",
    r"\setminus ": "smallsetminus backslash",
    r"\emptyset ": "varnothing",
    r"\bar ": "overline",
    r"^\circ ": "degree degrees textdegree",
    r"\%": "percent",
    r"\text{sterling}": "pounds",
    "'": "prime",
}
_REPLACEMENT = {rf"\{name}": new for new, names in _COMMANDS.items() for name in names.split()}
_COMMAND = re.compile(r"\\[a-zA-Z]+")

_WORD_FONT = r"\\(?:text(?:rm|it|normal|sf|tt|bf|up)?|math(?:rm|sf|tt|normal)|[mh]box|operatorname\*?)"
_LETTER_FONT = r"\\(?:math(?:bf|it|cal|scr|frak)|boldsymbol|bold|bm|underline)"
_FONT = rf"(?:{_WORD_FONT}|{_LETTER_FONT})(?![a-zA-Z])"
_OLD_FONT = re.compile(r"\{\s?\\(?:rm|it|sf|bf)(?![a-zA-Z])\s?([^{}]*)\}|\\rm(?![a-zA-Z]) ?([^{}]*)$")
_NESTED_FONT = re.compile(rf"({_WORD_FONT}\s?\{{(?:[^{{}}]|\{{[^{{}}]*\}})*?){_FONT}\s?\{{([^{{}}]*)\}}")
_FONT_GROUP = re.compile(rf"({_FONT})\s?\{{((?:[^{{}}\\]|\\[^a-zA-Z]|\\(?:cdot|mu|Omega|circ)|\{{[^{{}}\\]*\}})*)\}}")
_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|ln|log|exp|gcd|lcm|max|min|det")


def _font_group(match: re.Match) -> str:
    """`\\text{...}` for words and units. Numbers, function names and the letters of formulas lose their font."""
    font, content = match[1], match[2].strip()
    if _FUNCTION.fullmatch(content):
        return rf"\{content} "
    if re.search(r"[\^_]\s?\{?\s?$", match.string[: match.start()]) or not any(c.isalpha() for c in content):
        return f" {content}" if font.startswith(r"\text") else f"{{{content}}}"
    letters = "ied" if re.fullmatch(_WORD_FONT, font) else "abcdefghijklmnopqrstuvwxyzIJKLMNOPQRSTUVWXYZ"
    return f" {content} " if len(content) == 1 and content in letters else rf"\text{{{match[2]}}}"


def _repeating(match: re.Match) -> str:
    whole, head, tail = match[1] or "0", match[2], re.sub(r"\D", "", match[3])
    shift = 10 ** len(head)
    nines = shift * (10 ** len(tail) - 1)
    return rf"\frac{{{int(whole) * nines + int(head or 0) * (10 ** len(tail) - 1) + int(tail)}}}{{{nines}}}"


_TH = "(?:st|nd|rd|th)"
# `clean` applies these in order. A comment says what a rule is for if the pattern does not.
_RULES = [
    (r"^(\*{1,3}|`+)([^*`]+)\1$", r"\2"),  # Markdown
    (r"\\(?:(?:text)?color|cancel|phantom|[hv]space|tag)\*?\s?\{[^{}]*\}", ""),
    (r"(?<!\\)\\[()\[\]]", ""),  # \( \) \[ \], but not the line break in \\[4pt]
    (r"\\\\\s?\[[^\[\]]*[a-z]{2}\]", r"\\\\"),
    (r"\\\$", r"\\text{dollars}"),
    (r"\$|\\!\s?|\\(?:left|right)\s?\.", ""),  # 10,\!080
    (r"\{\s?([,:;=+*/-])\s?\}", r"\1"),  # 10{,}080, 3{:}30, {-}5
    (r"(?<![\w.])(\d{1,3}(?:_\d{3})+)(?!\d)", lambda m: m[1].replace("_", "")),  # 1_000_000
    (r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))", ""),  # 10\,080
    (r"(?<!\\)\\[,;:> ]|~", " "),
    (r"\\(frac|sqrt|binom)\s?(\\[a-zA-Z]+|[^{}\[\]()\s\\])", r"\\\1{\2}"),
    (r"(\\(?:frac|binom)\{[^{}]*\})\s?(\\[a-zA-Z]+|[^{}\[\]()\s\\])", r"\1{\2}"),
    (r"\.\.\.", r"\\ldots "),
    (r"(?<![\d.])(\d{0,50})\.(\d{0,50})\\(?:bar|dot) ?\{?(\d\}?\d*\\dot ?\{?\d|\d{1,50})\}?", _repeating),
    (r"(?<![\d.])(\d{0,9})\.(\d{0,9}?)(\d{1,9}?)\3{2,} ?\\ldots", _repeating),
    (r"\^\{? ?\\circ ?\}? ?(?:\\text\{)? ?([CF])(?![a-zA-Z])\}?", lambda m: rf"\text{{ degrees {m[1]}}}"),
    (r"\\?%", r"\\text{ percent}"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"(?<=[a-zA-Z ])!=|\\not ?=", r"\\neq "),
    (r":=", "="),
    (r"\*\*", "^"),
    (r"\^ ?\{? ?('+) ?\}?| (?=')", r"\1"),
    (r"([\^_])\s?(-?\d+|[a-zA-Z]|\\[a-zA-Z]+)", r"\1{\2}"),
    (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w|\.\d)", r"\1 \\times 10^{\2}"),
    (r"\^\{\+", "^{"),
    (r"(^|[(\[,;={])\s?\+", r"\1"),  # a unary plus
    (rf"(?<=\d)(?:\^ ?\{{ ?{_TH} ?\}}|\\text\{{ ?{_TH} ?\}}|{_TH}(?![a-zA-Z]))", ""),  # 7^{\text{th}}
    (r"\\(bar|hat|tilde|vec|d?dot) ?(?:\{([a-zA-Z])\}|([a-zA-Z]))", r"\\\1{\2\3}"),
    (r"\\(?:bar|overrightarrow|overleftrightarrow|vec) ?\{([A-Z]{2})\}", r"\1"),  # segments
    (r"\\frac ?\{d ?([a-zA-Z])\} ?\{d ?[a-zA-Z]\}", r"\1'"),
    (r"(?:\\\\ ?)+$", ""),
    (r"\\(?:begin|end) ?\{(?:cases|aligned?|gathered)\*?\}", ""),
    (r"(\\begin ?\{array\}) ?\{[^{}]*\}", r"\1"),
    (r"[\[(] ?(\\begin ?\{(array|matrix)\}.*\\end ?\{\2\}) ?[\])]", r"\1"),
    (r"\{(?:[bpB]?matrix|array)\}", "{pmatrix}"),
    (r"(\d) ?\^\{\\circ\} ?(\d[\d.]*) ?'$", r"\1\\text{degrees}\2\\text{arcminutes}"),
    (r"\\text\{(dollars|euros|sterling|Rs\.? ?)\} ?(\d(?:[\d.,]*\d)?)", r"\2\\text{ \1 }"),
    (r"\(? ?\\text\{[ (]*(?:in )?base ?(\w*)[ )]*\} ?(\d*)\)?$", r"_{\1\2}"),
    (r"\\\{ ?\\\}", r"\\emptyset "),
    (r"\\mathbb ?R(?![a-zA-Z])", r"\\mathbb{R}"),
    (r"\](?=[^\[\],;]+[,;][^\[\],;]+\[)([^\[\]]*)\[", r"(\1)"),  # French intervals
    (r"(^|\\cup ?|\\in ?)\]([^\[\]]+\])", r"\1(\2"),
    (r"(\[[^\[\],;]+[,;][^\[\],;]+)\[", r"\1)"),
    (
        r"(?<![a-zA-Z])C ?\((\d+), ?(\d+)\)|\{ ?(\d+) ?\\choose ?(\d+) ?\}|(?:\{\})?_\{(\d+)\} ?C_\{(\d+)\}",
        lambda m: rf"\binom{{{m[1] or m[3] or m[5]}}}{{{m[2] or m[4] or m[6]}}}",
    ),
]
_RULES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


@lru_cache(maxsize=50_000)
def clean(text: str) -> str:
    """Rewrites LaTeX that differs only in notation to one spelling. Text over `MAX_ANSWER_CHARS` is only stripped."""
    text = text.strip()
    if len(text) > MAX_ANSWER_CHARS:
        return text
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        for mark, script in _SCRIPTS.items():
            text = script.sub(lambda m, mark=mark: f"{mark}{{{unicodedata.normalize('NFKC', m.group())}}}", text)
        text = _VULGAR_FRACTION.sub(lambda m: f" {unicodedata.normalize('NFKC', m.group())} ", text)
        text = unicodedata.normalize("NFKC", text.translate(_CLEANED))
        text = text.replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-")
    text = " ".join(text.replace("\0", "").split())
    if text.isdecimal():
        return text
    if r"\begin" not in text:
        text = re.sub(r"(?<!\\)\\\\(?=[a-zA-Z]{2})", r"\\", text)  # \\frac
    text = _OLD_FONT.sub(lambda m: rf"\text{{{m[1] or m[2]}}}", text)
    while (flat := _NESTED_FONT.sub(r"\1\2", text)) != text:
        text = flat
    text = _FONT_GROUP.sub(_font_group, text).replace(r"\text{", r"\word{")
    text = _COMMAND.sub(lambda m: _REPLACEMENT.get(m.group(), m.group()), text).replace(r"\word{", r"\text{")
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).rstrip(".,;: ")
