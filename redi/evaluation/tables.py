"""The report as Markdown, with what is needed to read its numbers."""

from typing import Any

PLUS_MINUS, MINUS = "\N{PLUS-MINUS SIGN}", "\N{MINUS SIGN}"


def markdown(table: dict[str, Any]) -> str:
    """`table.json` as text: one row a model, and one a model and benchmark where there are several benchmarks."""
    rows = table["rows"]
    benchmarks = list(rows[0]["benchmarks"])
    parts = []
    if len(benchmarks) > 1:
        header = ["pass@1 (%)", *benchmarks, "Avg"]
        cells = [
            [row["name"], *(with_error(row["benchmarks"][name]) for name in benchmarks), with_error(row["average"])]
            for row in rows
        ]
        parts.append(grid(header, cells))
    for name in benchmarks:
        parts.append(grid(*_benchmark_table(table, name)))
    return "\n\n".join([*parts, _footer(table)]) + "\n"


def _benchmark_table(table: dict[str, Any], name: str) -> tuple[list[str], list[list[str]]]:
    cells = [row["benchmarks"][name] for row in table["rows"]]
    num_samples = cells[0]["n"]
    header = [f"{name} ({cells[0]['num_problems']})", "pass@1 (%)"]
    header += [f"pass@{num_samples} (%)"] if num_samples > 1 else []
    header += ["mean tokens", "truncated (%)", "no answer (%)"]
    header += [f"pass@1 minus {baseline}" for baseline in table["baselines"]]
    lines = []
    for row, cell in zip(table["rows"], cells, strict=True):
        line = [row["name"], with_error(cell)]
        line += [percent(cell["pass_at_k"][str(num_samples)])] if num_samples > 1 else []
        line += [f"{cell['mean_tokens']:.0f}", percent(cell["truncated"]), percent(cell["no_answer"])]
        line += [_difference(cell["differences"].get(baseline)) for baseline in table["baselines"]]
        lines.append(line)
    return header, lines


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def with_error(cell: dict[str, Any]) -> str:
    return f"{percent(cell['pass_at_1'])} {PLUS_MINUS} {percent(cell['sem'])}"


def _difference(difference: dict[str, float] | None) -> str:
    if difference is None:
        return "-"
    mean, low, high = (f"{100 * difference[key]:+.1f}".replace("-", MINUS) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns aligned in plain text too: the first to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]

    def render(line: list[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([render(header), f"|{rule}|", *map(render, rows)])


def _footer(table: dict[str, Any]) -> str:
    protocol = ", ".join(f"{key} {value}" for key, value in table["protocol"].items())
    failures = [f"{kind}: {found}" for kind in ("timeouts", "errors") if (found := _undecided(table, f"num_{kind}"))]
    lines = [
        f"Protocol: {protocol or 'not recorded (no generation_config.json)'}.",
        f"{PLUS_MINUS} is the standard error over sample indices, the population standard deviation of the n means "
        "over the square root of n: the noise of sampling answers, not of choosing problems.",
        "truncated: cut off at the token limit. no answer: no </think>, or no box after it; counted as wrong.",
        f"Undecided by the grader, counted as wrong: {'; '.join(failures) or 'none'}.",
    ]
    if table["baselines"]:
        lines.append("[,]: 95 % of 10,000 bootstrap draws over the same problems, and over samples within problems.")
    return "\n".join(f"- {line}" for line in lines)


def _undecided(table: dict[str, Any], kind: str) -> str:
    totals = {row["name"]: sum(cell[kind] for cell in row["benchmarks"].values()) for row in table["rows"]}
    return ", ".join(f"{name} {total}" for name, total in totals.items() if total)
