"""The report's tables, and the notes needed to read their numbers; as Markdown and as LaTeX."""

import re
from typing import Any

from redi.runs.markdown import grid

Table = tuple[list[str], list[list[str]]]  # header and rows, formatted
PLUS_MINUS, MINUS = "\N{PLUS-MINUS SIGN}", "\N{MINUS SIGN}"
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", PLUS_MINUS: r"$\pm$", MINUS: "$-$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def markdown(summary: dict[str, Any]) -> str:
    """The tables and their notes as Markdown."""
    lines = "\n".join(f"- {note}" for note in notes(summary))
    return "\n\n".join([*(grid(*table) for table in tables(summary)), lines]) + "\n"


def latex(summary: dict[str, Any]) -> str:
    """The tables, each a `tabular`, and their notes. Needs `\\usepackage{booktabs}`."""
    tabulars = "\n\\bigskip\n\n".join(map(_tabular, tables(summary)))
    lines = "\\\\\n".join(map(escape, notes(summary)))
    setup = r"{\footnotesize\setlength{\tabcolsep}{4pt}"
    return f"% needs \\usepackage{{booktabs}}\n{setup}\n{tabulars}\n\\medskip\\raggedright\n{lines}\\par}}\n"


def _tabular(table: Table) -> str:
    header, *rows = (" & ".join(map(escape, row)) + r" \\" for row in (table[0], *table[1]))
    begin = rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Text in which no character has a special meaning to LaTeX."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match.group()], text)


def tables(summary: dict[str, Any]) -> list[Table]:
    """One table per benchmark. If there are several, one of pass@1 on all benchmarks comes first."""
    benchmarks, baselines = list(summary["rows"][0]["benchmarks"]), summary["baselines"]
    found = [_benchmark_table(summary, name) for name in benchmarks]
    if len(benchmarks) == 1:
        return found
    header = ["pass@1 (%)", *benchmarks, "Avg", *(f"Avg minus {baseline}" for baseline in baselines)]
    rows = []
    for row in summary["rows"]:
        cells = [_with_error(cell) for cell in (*row["benchmarks"].values(), row["average"])]
        rows.append([row["name"], *cells, *(_difference(row["average_differences"].get(each)) for each in baselines)])
    return [(header, rows), *found]


def _benchmark_table(summary: dict[str, Any], name: str) -> Table:
    """All numbers of one benchmark, one row per model."""
    rows, all_cells = [], [row["benchmarks"][name] for row in summary["rows"]]
    for row, cell in zip(summary["rows"], all_cells, strict=True):
        interval = f"{_percent(cell['low'])} to {_percent(cell['high'])}"
        columns = {"pass@1 (%)": _with_error(cell), "95 %": interval}
        if (n := cell["n"]) > 1:
            columns[f"pass@{n} (%)"] = _percent(cell["pass_at_k"][str(n)])
        if all(each["rllm_style"] is not None for each in all_cells):
            columns["rllm style (%)"] = _percent(cell["rllm_style"]["pass_at_1"])
            columns["disagree (%)"] = f"{100 * cell['rllm_style']['disagreement']:.2f}"
        columns["mean tokens"] = f"{cell['mean_tokens']:.0f}"
        columns["truncated (%)"] = _percent(cell["truncated"])
        columns["no answer (%)"] = _percent(cell["no_answer"])
        if all(each["waits_per_response"] is not None for each in all_cells):
            columns['"Wait"'] = f"{cell['waits_per_response']:.1f}"
            columns['"Wait"/1k tokens'] = f"{1000 * cell['waits_per_token']:.2f}"
        for baseline in summary["baselines"]:
            columns[f"pass@1 minus {baseline}"] = _difference(cell["differences"].get(baseline))
        rows.append([row["name"], *columns.values()])
    return [f"{name} ({cell['num_problems']})", *columns], rows


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_error(cell: dict[str, Any]) -> str:
    return f"{_percent(cell['pass_at_1'])} {PLUS_MINUS} {_percent(cell['sem'])}"


def _difference(difference: dict[str, float] | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (f"{100 * difference[key]:+.1f}".replace("-", MINUS) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def notes(summary: dict[str, Any]) -> list[str]:
    """What is needed to read the numbers: the protocol, the errors, and how many answers were not decided."""
    protocol = ", ".join(f"{key} {value}" for key, value in summary["protocol"].items())
    cells = {row["name"]: row["benchmarks"].values() for row in summary["rows"]}
    failures = []
    for kind in ("timeouts", "errors"):
        totals = {name: sum(cell[f"num_{kind}"] for cell in each) for name, each in cells.items()}
        if any(totals.values()):
            failures.append(f"{kind}: {', '.join(f'{name} {total}' for name, total in totals.items() if total)}")
    lines = [f"Protocol: {protocol or 'not recorded'}."]
    if len(set(summary["graders"].values())) > 1:
        graders = "; ".join(f"{name} by {grader or 'not recorded'}" for name, grader in summary["graders"].items())
        lines.append(f"Graders' revisions differ: {graders}. Grade all rows again before comparing them.")
    if summary["whole_responses"]:
        rows = ", ".join(f"{name} ({reason})" for name, reason in summary["whole_responses"].items())
        lines.append(f"Whole responses were graded, not only what follows </think>: {rows}.")
    lines += [
        f"{PLUS_MINUS} is the standard error over sample indices: the population standard deviation of the n means, "
        "divided by the square root of n. It measures the noise of sampling answers, not of choosing problems.",
        "95 %: bootstrap interval from 10,000 draws over problems, and over samples within problems"
        + (". A difference [low, high] uses the same draws for both models." if summary["baselines"] else "."),
        "truncated: cut off at the token limit. no answer: no </think>, or no box after it; counted as wrong.",
        f"Not decided by the grader, counted as wrong: {'; '.join(failures) or 'none'}.",
    ]
    if any(cell["rllm_style"] for each in cells.values() for cell in each):
        lines.append(
            "rllm style: pass@1 by the rules of the paper's final grader, which compares strings and tuples in a "
            "normal form. disagree: share of answers on which the two verdicts differ."
        )
    if extra := [name for name in summary["rows"][0]["benchmarks"] if name not in summary["averaged"]]:
        lines.append(f"Not in Avg (the same problems with second reference answers): {', '.join(extra)}.")
    if summary["left_out"]:
        found = "; ".join(f"{name}: {', '.join(others)}" for name, others in summary["left_out"].items())
        lines.append(f"Left out, since not every row has them: {found}.")
    return lines
