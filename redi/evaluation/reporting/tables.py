"""The report as Markdown, with what is needed to read its numbers."""

from typing import Any

from redi.runs.markdown import grid

PLUS_MINUS, MINUS = "\N{PLUS-MINUS SIGN}", "\N{MINUS SIGN}"


def markdown(table: dict[str, Any]) -> str:
    """`table.json` as text: one row a model, and one a model and benchmark where there are several benchmarks."""
    sections = [overview(table)] if len(table["rows"][0]["benchmarks"]) > 1 else []
    sections += [benchmark_table(table, name) for name in table["rows"][0]["benchmarks"]]
    return "\n\n".join([grid(*section) for section in sections] + [_footer(table)]) + "\n"


Section = tuple[list[str], list[list[str]]]  # a header and its rows


def overview(table: dict[str, Any]) -> Section:
    """pass@1 of every model on every benchmark, the average, and its differences to the baselines."""
    benchmarks = list(table["rows"][0]["benchmarks"])
    header = ["pass@1 (%)", *benchmarks, "Avg", *(f"Avg minus {baseline}" for baseline in table["baselines"])]
    lines = []
    for row in table["rows"]:
        cells = [with_error(row["benchmarks"][name]) for name in benchmarks]
        differences = [_difference(row["average_differences"].get(baseline)) for baseline in table["baselines"]]
        lines.append([row["name"], *cells, with_error(row["average"]), *differences])
    return header, lines


def benchmark_table(table: dict[str, Any], name: str) -> Section:
    """Everything about one benchmark, a row for each model."""
    cells = [row["benchmarks"][name] for row in table["rows"]]
    num_samples = cells[0]["n"]
    has_waits = all(cell["waits_per_response"] is not None for cell in cells)
    has_second = all(cell["rllm_style"] is not None for cell in cells)
    header = [f"{name} ({cells[0]['num_problems']})", "pass@1 (%)", "95 %"]
    header += [f"pass@{num_samples} (%)"] if num_samples > 1 else []
    header += ["rllm style (%)", "disagree (%)"] if has_second else []
    header += ["mean tokens", "truncated (%)", "no answer (%)"]
    header += ['"Wait"', '"Wait"/1k tokens'] if has_waits else []
    header += [f"pass@1 minus {baseline}" for baseline in table["baselines"]]
    lines = []
    for row, cell in zip(table["rows"], cells, strict=True):
        line = [row["name"], with_error(cell), f"{percent(cell['low'])} to {percent(cell['high'])}"]
        line += [percent(cell["pass_at_k"][str(num_samples)])] if num_samples > 1 else []
        second = cell["rllm_style"]
        line += [percent(second["pass_at_1"]), f"{100 * second['disagreement']:.2f}"] if has_second else []
        line += [f"{cell['mean_tokens']:.0f}", percent(cell["truncated"]), percent(cell["no_answer"])]
        if has_waits:
            line += [f"{cell['waits_per_response']:.1f}", f"{1000 * cell['waits_per_token']:.2f}"]
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


def _footer(table: dict[str, Any]) -> str:
    return "\n".join(f"- {line}" for line in footer(table))


def footer(table: dict[str, Any]) -> list[str]:
    """What is needed to read the numbers: the protocol, the errors, and what was undecided."""
    protocol = ", ".join(f"{key} {value}" for key, value in table["protocol"].items())
    failures = [f"{kind}: {found}" for kind in ("timeouts", "errors") if (found := _undecided(table, f"num_{kind}"))]
    cells = [cell for row in table["rows"] for cell in row["benchmarks"].values()]
    left_out = [name for name in table["rows"][0]["benchmarks"] if name not in table["averaged"]]
    lines = [
        f"Protocol: {protocol or 'not recorded (no generation_config.json)'}.",
        f"{PLUS_MINUS} is the standard error over sample indices, the population standard deviation of the n means "
        "over the square root of n: the noise of sampling answers, not of choosing problems.",
        "95 %: of 10,000 bootstrap draws over problems, and over samples within problems"
        + (", the same ones for both models in a difference [,]." if table["baselines"] else "."),
        "truncated: cut off at the token limit. no answer: no </think>, or no box after it; counted as wrong.",
        f"Undecided by the grader, counted as wrong: {'; '.join(failures) or 'none'}.",
    ]
    if any(cell["rllm_style"] for cell in cells):
        lines.append(
            "rllm style: pass@1 by the rules of the paper's final grader, strings and tuples in a normal form; "
            "disagree: share of answers on which the two verdicts differ."
        )
    if left_out:
        lines.append(f"Not in Avg, being the same problems by other golds: {', '.join(left_out)}.")
    return lines


def _undecided(table: dict[str, Any], kind: str) -> str:
    totals = {row["name"]: sum(cell[kind] for cell in row["benchmarks"].values()) for row in table["rows"]}
    return ", ".join(f"{name} {total}" for name, total in totals.items() if total)
