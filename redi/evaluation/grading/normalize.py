"""Rewrites LaTeX answers to one spelling: characters, spacing, fonts, delimiters. Values and the order of items stay.

After `clean`, words, units and upright symbols are `\\text{...}` without nested commands.
"""

import re
import unicodedata
from functools import lru_cache

# Longer answers are compared verbatim: the longest reference answer has a few hundred characters, and rules take time.
MAX_ANSWER_CHARS = 2000

_LATEX = r"""\infty ^\circ \times \cdot \cdot \sqrt \le \ge \neq \approx \pm \cup \cap \in \emptyset \alpha \beta
    \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \pi \rho \sigma \tau \upsilon \phi
    \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega"""
SYMBOLS = dict(zip("∞°×·⋅√≤≥≠≈±∪∩∈∅αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", _LATEX.split(), strict=True))
_CHARACTERS = str.maketrans(
    {symbol: f"{latex} " for symbol, latex in SYMBOLS.items()}
    | dict.fromkeys("\u2212\u2013\u2014\u2010\u2011", "-")
    | {"÷": "/", "\u2215": "/", "\u2044": "/", "。": ".", "\u2032": "'", "≡": r"\equiv ", "Å": r"\AA "}
    | {"€": r"\text{euros}", "£": r"\text{sterling}"}
)
_SCRIPTS = [("[⁰¹²³⁴-⁻ⁿ]+", r"^{\g<0>}"), ("[₀-₋]+", r"_{\g<0>}"), ("[¼-¾⅐-⅞]", r" \g<0> "), ("ℝ", r"\\mathbb{R}")]

# Commands and signs by their replacement. An empty replacement drops size, spacing and alignment.
_SPELLINGS = {
    "": r"\left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \bigm $ \! "
    r"\displaystyle \textstyle \scriptstyle \limits \nolimits \hline \tiny \small \normalsize \large \Large \LARGE "
    r"\huge \Huge \rm \it \sf \bf \boxed \fbox \bold \mathbf \mathrm \mathit \boldsymbol \bm \underline \mbox \textbf "
    r"\checkmark \square \blacksquare \( \) \[ \]",
    " ": r"\quad \qquad \, \; \: \> \ ~",
    r"\frac": r"\dfrac \tfrac \cfrac",
    r"\binom": r"\tbinom \dbinom",
    r"\{": r"\lbrace",
    r"\}": r"\rbrace",
    "(": r"\langle",
    ")": r"\rangle",
    "|": r"\lvert \rvert \vert \mid",
    r"\le ": r"\leq \leqslant <=",
    r"\ge ": r"\geq \geqslant >=",
    "<": r"\lt",
    ">": r"\gt",
    r"\neq ": r"\ne",
    r"\approx ": r"\simeq \cong \doteq",
    r"\ldots ": r"\dots \cdots \dotsc ...",
    r"\setminus ": r"\smallsetminus \backslash",
    r"\emptyset ": r"\varnothing",
    r"\bar": r"\overline",
    r"^\circ ": r"\degree \degrees \textdegree",
    r"\text{ percent}": r"\percent \% %",
    r"\text{sterling}": r"\pounds",
    r"\text{dollars}": r"\$",
    "'": r"\prime",
    "=": ":=",
    "^": "**",
}
_REPLACEMENT = {old: new for new, spellings in _SPELLINGS.items() for old in spellings.split()}

_WORD_FONT = r"\\(?:text(?:rm|it|normal|sf|tt|bf|up)?|math(?:rm|sf|tt|normal)|[mh]box|operatorname\*?)"
_FONT = rf"(?:{_WORD_FONT}|\\(?:math(?:bf|it|cal|scr|frak)|boldsymbol|bold|bm|underline))(?![a-zA-Z])"
_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|ln|log|exp|gcd|lcm|max|min|det")


def _font_group(match: re.Match) -> str:
    """`\\text{...}` for words and units. Numbers, function names and the letters of formulas lose their font."""
    font, content, before = match[1], match[2].strip(), match.string[: match.start()]
    if _FUNCTION.fullmatch(content) and not (content in ("min", "sec") and re.search(r"\d[\s\\,;~]*$", before)):
        return rf"\{content} "
    if re.search(r"[\^_]\s?\{?\s?$", before) or not any(c.isalpha() for c in content):
        return f" {content}" if font.startswith(r"\text") else f"{{{content}}}"
    letters = "ied" if re.fullmatch(_WORD_FONT, font) else "abcdefghijklmnopqrstuvwxyzIJKLMNOPQRSTUVWXYZ"
    return f" {content} " if len(content) == 1 and content in letters else rf"\text{{{match[2]}}}"


def _repeating(match: re.Match) -> str:
    head, tail = match[1] + match[2], re.sub(r"\D", "", match[3])
    nines = 10 ** len(match[2]) * (10 ** len(tail) - 1)
    return rf"\frac{{{int(head + tail) - int(head or 0)}}}{{{nines}}}"


_WORDS = {
    r"(?:there (?:is|are) |the )?(?:no|empty)(?: real)?(?: solutions?| set| values?| roots?)|none": r"\\emptyset ",
    r"dne|(?:the limit )?does not exist": r"\\text{undefined}",
    r"(?:all|any|the set of) (?:all )?reals?(?: numbers?)?": r"\\mathbb{R}",
    r"infinity": r"\\infty ",
}
_NESTED_FONT = (rf"({_WORD_FONT}\{{(?:[^{{}}]|\{{[^{{}}]*\}})*?){_FONT}\{{([^{{}}]*)\}}", r"\1\2")
_ARGUMENT = (  # \frac12, \sqrt2, \bar x
    r"(\\(?:frac|sqrt|binom|mathbb|bar|hat|tilde|vec|d?dot)|\\(?:frac|binom)\{[^{}]*\})"
    r" ?(\\[a-zA-Z]+|[^{}\[\]()\s\\])",
    r"\1{\2}",
)
# `clean` applies these in order. A comment says what a rule is for if the pattern does not.
_RULES = [
    (r"(\\[a-zA-Z]+|\}) (?=\{)", r"\1"),
    (r"(?<!\\)\\\\(?=[a-zA-Z]{2})(?!.*\\end)", r"\\"),  # \\frac
    (r"\{ ?\\(?:rm|it|sf|bf)(?![a-zA-Z]) ?([^{}]*)\}|\\rm(?![a-zA-Z]) ?([^{}]*)$", r"\\text{\1\2}"),
    *[_NESTED_FONT] * 4,
    (rf"({_FONT})\{{((?:[^{{}}\\]|\\[^a-zA-Z]|\\(?:cdot|mu|Omega|circ|AA)|\{{[^{{}}\\]*\}})*)\}}", _font_group),
    (r"^(\*{1,3}|`+)([^*`]+)\1$", r"\2"),  # Markdown
    (r"\\(?:(?:text)?color|cancel|phantom|[hv]space|tag)\*?\{[^{}]*\}", ""),
    (r"(?<=[a-zA-Z ])!=|\\not ?=", r"\\neq "),
    (r"(\\\\) ?\[[^\[\]]*[a-z]{2}\]", r"\1"),  # \\[4pt]
    (r"\\[a-zA-Z]+|\\! ?|\\.|[<>:]=|\.\.\.|\*\*|[$%~]", lambda m: _REPLACEMENT.get(m[0].rstrip(), m[0])),
    (r"\{\s?([,:;=+*/-])\s?\}", r"\1"),  # 10{,}080, 3{:}30, {-}5
    (r"(?<![\w.,^])\d{1,3}(?:[ _]\d{3})+(?!\d)", lambda m: re.sub("[ _]", "", m[0])),  # 10\,080, 1_000_000
    *[_ARGUMENT] * 2,
    (r"(?<![\d.])(\d{0,50})\.(\d{0,50})\\(?:bar|dot)\{?(\d\}?\d*\\dot\{?\d|\d{1,50})\}?", _repeating),
    (r"(?<![\d.])(\d{0,9})\.(\d{0,9}?)(\d{1,9}?)\3{2,} ?\\ldots", _repeating),
    (r"\^\{? ?\\circ ?\}? ?(?:\\text\{)? ?([CF])(?![a-zA-Z])\}?", r"\\text{ degrees \1}"),
    (r"\^ ?\{? ?('+) ?\}?| (?=')", r"\1"),
    (r"([\^_])\s?(-?\d+|[a-zA-Z]|\\[a-zA-Z]+)", r"\1{\2}"),
    (r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w|\.\d)", r"\1 \\times 10^{\2}"),
    (r"(^|[(\[,;={])\s?\+", r"\1"),  # a unary plus
    (r"(?<=\d)(?:(?:\^|\\text)\{ ?(?:st|nd|rd|th) ?\}|(?:st|nd|rd|th)(?![a-zA-Z]))", ""),  # 7^{\text{th}}
    (r"\\(?:bar|overleftrightarrow)\{([A-Z]{2})\}", r"\1"),  # segments and lines, not vectors
    (r"\\overrightarrow(?=\{)", r"\\vec"),
    (r"\\angle ?\{?([A-Z])([A-Z])([A-Z])\}?", lambda m: rf"\angle {min(m[1], m[3])}{m[2]}{max(m[1], m[3])}"),
    (r"\\frac\{d ?([a-zA-Z])\}\{d ?[a-zA-Z]\}", r"\1'"),
    (r"\\(?:begin|end)\{(?:cases|aligned?|gathered)\*?\}", ""),
    (r"\\(begin|end)\{(?:[bpB]?matrix|array)\}((?<=array\})\{[^{}]*\})?", r"\\\1{pmatrix}"),
    (r"(\d) ?\^\{\\circ\} ?(\d[\d.]*) ?'$", r"\1\\text{degrees}\2\\text{arcminutes}"),
    (r"(?<=\d) ?''$", r"\\text{doubleprime}"),  # inches or arcseconds
    (r"(?<=\d) ?'$", r"\\text{singleprime}"),
    (r"\\text\{(dollars|euros|sterling|Rs\.? ?)\} ?(\d(?:[\d.,]*\d)?)", r"\2\\text{ \1 }"),
    (r"\(? ?\\text\{[ (]*(?:in )?base ?(\w*)[ )]*\} ?(\d*)\)?$", r"_{\1\2}"),
    (r"\\text\{(?:[^{}]*(?: is|:)| ?(?:about|approximately|around|roughly|exactly)) ?\}|\babout ", ""),
    (r"\\\{ ?\\\}", r"\\emptyset "),
    *((rf"(?i:(?:\\text\{{ ?|^)(?:{words})(?:[ .]*\}}|$))", latex) for words, latex in _WORDS.items()),
    (r"(\\mathbb\{R\}) ?(?:-|\\setminus) ?\\?\{([^{}\\]*)\\?\}", r"\1\\setminus\\{\2\\}"),
    (  # French intervals: ]0, 1]
        r"(?<![\d}])(?<!\[\w)([\[\]])([^\[\],;]+[,;][^\[\],;]+)(?<!\\sqrt)([\[\]])",
        lambda m: ("(" if m[1] == "]" else "[") + m[2].replace(";", ",") + (")" if m[3] == "[" else "]"),
    ),
    (
        r"(?<![a-zA-Z])C ?\((\d+), ?(\d+)\)|\{ ?(\d+) ?\\choose ?(\d+) ?\}|(?:\{\})?_\{(\d+)\} ?C_\{(\d+)\}",
        r"\\binom{\1\3\5}{\2\4\6}",
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
        for pattern, replacement in _SCRIPTS:
            text = re.sub(pattern, replacement, text)
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = " ".join(text.replace("\0", "").split())
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).rstrip(".,;:\\ ")
