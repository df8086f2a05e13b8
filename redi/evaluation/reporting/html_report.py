"""`report.html`: the tables, pass@k curves, length histograms and a browser of single responses in one file.

The responses are packed as gzip in base64, a hundred to a block, and unpacked by the browser when one is looked at. So
no model text is ever part of the page's markup, and thousands of responses open at once.
"""

import gzip
import json
import zlib
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from redi.evaluation.benchmarks import SECOND_GOLDS
from redi.evaluation.files import BENCHMARK, GRADED
from redi.evaluation.reporting.scores import Entry, Scores
from redi.evaluation.reporting.svg_charts import histogram, line_chart
from redi.evaluation.reporting.tables import Section, benchmark_table, footer, overview
from redi.runs.files import write_text
from redi.runs.jsonl import iter_jsonl

TEMPLATE = Path(__file__).with_name("report_page.html")
BLOCK = 100  # responses
MAX_CHARS = 20_000  # of one response; the middle of longer ones is left out

Key = tuple[str, str | int, int]  # benchmark, id, sample index


def write_page(table: dict[str, Any], entries: list[Entry], path: Path, max_responses: int) -> None:
    """Writes the page.

    Args:
        table: what `summarize` gave.
        entries: the graded folders.
        path: the file.
        max_responses: most responses it holds, of all folders together.
    """
    rows, blocks, problems = _responses(entries, max_responses)
    total = sum(scores.correct.size for entry in entries for scores in entry.scores.values())
    data = {
        "models": [entry.name for entry in entries],
        "benchmarks": list(entries[0].scores),
        "problems": problems,
        "rows": rows,
        "block": BLOCK,
    }
    note = f"{len(rows):,} of {total:,} responses"
    if len(rows) < total:
        note += ", those on which the verdicts differ and the first samples of each problem"
    parts = {
        "TITLE": escape(", ".join(data["models"])),
        "TABLES": _tables(table),
        "FOOTER": "".join(f"<li>{escape(line)}</li>" for line in footer(table)),
        "LEGEND": "".join(f'<span><i class="s{i % 7}"></i>{escape(m)}</span>' for i, m in enumerate(data["models"])),
        "PASS": "".join(_pass_chart(table, name) for name in data["benchmarks"]),
        "LENGTHS": "".join(_length_chart(entries, name) for name in data["benchmarks"]),
        "NOTE": escape(f"{note}; each cut to {MAX_CHARS:,} characters."),
        "DATA": "".join(_packed(f"block{number}", block) for number, block in enumerate(blocks))
        + _packed("index", data),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, content in parts.items():
        page = page.replace(f"<!--{name}-->", content)
    write_text(path, page)


def _packed(name: str, content: Any) -> str:
    """JSON as gzip in base64, in which no character means anything to HTML."""
    packed = gzip.compress(json.dumps(content).encode("ascii"), compresslevel=6, mtime=0)
    return f'<script type="application/gzip" id="{name}">{b64encode(packed).decode()}</script>\n'


def _tables(table: dict[str, Any]) -> str:
    benchmarks = list(table["rows"][0]["benchmarks"])
    sections = [overview(table)] if len(benchmarks) > 1 else []
    return "".join(_html_table(section) for section in [*sections, *(benchmark_table(table, n) for n in benchmarks)])


def _html_table(section: Section) -> str:
    header, rows = section
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _pass_chart(table: dict[str, Any], name: str) -> str:
    curves = [row["benchmarks"][name]["pass_at_k"] for row in table["rows"]]
    series = [[(int(k), 100 * share) for k, share in curve.items()] for curve in curves]
    return f"<figure>{line_chart(name, 'k', 'pass@k, %', series, log_x=True)}</figure>"


def _length_chart(entries: list[Entry], name: str) -> str:
    lengths = [entry.scores[name].num_tokens.ravel().tolist() for entry in entries]
    largest = max(map(max, lengths))
    series = [histogram(values, largest) for values in lengths]
    return f"<figure>{line_chart(name, 'tokens', '% of responses', series, zero=True)}</figure>"


def _responses(entries: list[Entry], max_responses: int) -> tuple[list[list], list[list[str]], dict[str, list]]:
    """The rows of the browser, the texts in blocks of the same order, and the problems with their golds."""
    rows, texts, problems = [], [], {}
    benchmarks = list(entries[0].scores)
    quota = max(1, max_responses // (len(entries) * len(benchmarks)))
    for number, entry in enumerate(entries):
        chosen = {key for name, scores in entry.scores.items() for key in select(name, scores, quota)}
        statements = _problems(entry)
        for row in iter_jsonl(entry.folder / GRADED, ("benchmark", "id", "sample_idx")):
            if (row["benchmark"], row["id"], row["sample_idx"]) not in chosen:
                continue
            key = f"{row['benchmark']} {row['id']}"
            gold = row.get("gold", "")
            gold = gold if isinstance(gold, str) else " | ".join(gold)
            first = SECOND_GOLDS.get(row["benchmark"], row["benchmark"])
            problems.setdefault(key, [statements.get((first, row["id"]), row.get("prompt", "")), gold])
            rows.append(_row(number, benchmarks.index(row["benchmark"]), key, row))
            texts.append(_cut(row.get("response", "")))
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], rows[i][1], str(rows[i][2]), rows[i][3]))
    texts = [texts[i] for i in order]
    blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
    return [rows[i] for i in order], blocks, problems


def _row(model: int, benchmark: int, key: str, row: dict[str, Any]) -> list:
    answer = row.get("answer")
    second = row.get("correct_rllm_style")
    verdicts = [int(row["correct"]), None if second is None else int(second), row["status"]]
    return [
        model,
        benchmark,
        key,
        row["sample_idx"],
        *verdicts,
        row["finish_reason"],
        row["num_tokens"],
        answer and _cut(answer),
    ]


def select(benchmark: str, scores: Scores, quota: int) -> list[Key]:
    """The samples that the page shows: up to half of them those on which the verdicts differ, then the first ones.

    Where not even the first sample of every problem fits, the problems are spread by a hash of their ids.
    """
    spread = sorted(range(len(scores.ids)), key=lambda i: zlib.crc32(str(scores.ids[i]).encode()))
    cells = [(i, j) for j in range(scores.correct.shape[1]) for i in spread]
    second = scores.correct_rllm_style
    differing = [] if second is None else [(i, j) for i, j in cells if second[i, j] != scores.correct[i, j]]
    chosen = dict.fromkeys([*differing[: quota // 2], *cells])
    return [(benchmark, scores.ids[i], j) for i, j in list(chosen)[:quota]]


def _problems(entry: Entry) -> dict[tuple[str, str | int], str]:
    """The problems' texts, where the folder has them."""
    path = entry.folder / BENCHMARK
    rows = iter_jsonl(path, ("benchmark", "id", "problem")) if path.is_file() else ()
    return {(row["benchmark"], row["id"]): row["problem"] for row in rows}


def _cut(text: str) -> str:
    """Text without its middle if it is long, and without halves of surrogate pairs, which are no characters."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MAX_CHARS:
        return text
    left_out = len(text) - MAX_CHARS
    return f"{text[: MAX_CHARS // 3]}\n\n[... {left_out:,} characters left out ...]\n\n{text[-2 * MAX_CHARS // 3 :]}"
