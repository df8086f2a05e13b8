"""The report as LaTeX: `booktabs` tables to put into a paper, with the protocol as a note."""

import re
from typing import Any

from redi.evaluation.reporting.tables import MINUS, PLUS_MINUS, Section, benchmark_table, footer, overview

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
_SPECIAL_RE = re.compile("|".join(map(re.escape, _SPECIAL)))


def escape(text: str) -> str:
    """Text as LaTeX shows it as it stands."""
    return _SPECIAL_RE.sub(lambda match: _SPECIAL[match.group()], text)


def latex(table: dict[str, Any]) -> str:
    """The tables of `table.md`, each in a `tabular`; needs `\\usepackage{booktabs}`."""
    benchmarks = list(table["rows"][0]["benchmarks"])
    sections = [overview(table)] if len(benchmarks) > 1 else []
    sections += [benchmark_table(table, name) for name in benchmarks]
    notes = "\\\\\n".join(escape(line) for line in footer(table))
    tabulars = "\n\\bigskip\n\n".join(map(_tabular, sections))
    setup = r"{\footnotesize\setlength{\tabcolsep}{4pt}"
    return f"% needs \\usepackage{{booktabs}}\n{setup}\n{tabulars}\n\\medskip\\raggedright\n{notes}\\par}}\n"


def _tabular(section: Section) -> str:
    header, rows = section
    lines = [" & ".join(map(escape, line)) + r" \\" for line in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(map(escape, header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
