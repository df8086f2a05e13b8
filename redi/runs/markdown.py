"""Markdown tables."""


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
