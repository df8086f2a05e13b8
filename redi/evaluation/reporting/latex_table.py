"""The report as LaTeX: `booktabs` tables for a paper, with the protocol as a note."""

import re
from typing import Any

from redi.evaluation.reporting.tables import MINUS, PLUS_MINUS, Table, notes, tables

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",
    PLUS_MINUS: r"$\pm$",
    MINUS: "$-$",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex(summary: dict[str, Any]) -> str:
    """The tables of `table.md`, each a `tabular`, and their notes. Needs `\\usepackage{booktabs}`."""
    tabulars = "\n\\bigskip\n\n".join(map(_tabular, tables(summary)))
    lines = "\\\\\n".join(map(escape, notes(summary)))
    setup = r"{\footnotesize\setlength{\tabcolsep}{4pt}"
    return f"% needs \\usepackage{{booktabs}}\n{setup}\n{tabulars}\n\\medskip\\raggedright\n{lines}\\par}}\n"


def _tabular(table: Table) -> str:
    header, *rows = (" & ".join(map(escape, row)) + r" \\" for row in (table.header, *table.rows))
    begin = rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Text in which no character has a special meaning to LaTeX."""
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda match: _SPECIAL[match.group()], text)
