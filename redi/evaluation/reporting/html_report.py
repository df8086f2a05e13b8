"""Writes `report.html`: tables, pass@k curves, length histograms and a browser of single responses in one file.

Responses are packed as gzip in base64, a hundred per block. The browser unpacks a block when one of its responses is
opened. So no model text is ever part of the page's markup, and a page with thousands of responses opens quickly.
"""

import gzip
import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Template

from redi.evaluation.files import GRADED, SampleKey, read_samples
from redi.evaluation.reporting.figures import length_chart, pass_at_k_chart
from redi.evaluation.reporting.scores import GradedFolder, Scores
from redi.evaluation.reporting.tables import notes, tables
from redi.runs.files import write_text

TEMPLATE = Path(__file__).with_name("report_page.html")
BLOCK = 100  # responses
MAX_CHARS = 20_000  # per response; longer ones lose their middle


def write_page(summary: dict[str, Any], folders: list[GradedFolder], path: Path, max_responses: int) -> None:
    """Writes the page to `path`, with at most `max_responses` responses over all folders."""
    rows, blocks, problems = _responses(folders, max_responses)
    models, benchmarks = [folder.name for folder in folders], list(folders[0].scores)
    data = {f"block{number}": block for number, block in enumerate(blocks)}
    data["index"] = {"models": models, "benchmarks": benchmarks, "problems": problems, "rows": rows, "block": BLOCK}
    passes, lengths = {}, {}
    for name in benchmarks:
        shares = [row["benchmarks"][name]["pass_at_k"].values() for row in summary["rows"]]
        passes[name] = pass_at_k_chart([[100 * share for share in curve] for curve in shares])
        lengths[name] = length_chart([folder.scores[name].num_tokens for folder in folders])
    page = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = page.render(
        models=models,
        tables=tables(summary),
        notes=notes(summary),
        figures=[("pass@k", "pass@k, %", passes), ("Length of the responses", "% of responses", lengths)],
        num_shown=len(rows),
        num_responses=sum(scores.correct.size for folder in folders for scores in folder.scores.values()),
        max_chars=MAX_CHARS,
        data={name: _packed(content) for name, content in data.items()},
    )
    write_text(path, text)


def _packed(content: Any) -> str:
    """JSON as gzip in base64, which has no characters that HTML interprets."""
    packed = gzip.compress(json.dumps(content).encode("ascii"), compresslevel=6, mtime=0)
    return b64encode(packed).decode()


def _responses(folders: list[GradedFolder], max_responses: int) -> tuple[list[list], list[list[str]], dict[str, list]]:
    """The rows of the browser, their texts in blocks, and the problems with their reference answers."""
    found, problems, benchmarks = [], {}, list(folders[0].scores)
    quota = max(1, max_responses // (len(folders) * len(benchmarks)))
    for number, folder in enumerate(folders):
        chosen = {key for name, scores in folder.scores.items() for key in select(name, scores, quota)}
        for sample, row in read_samples(folder.path / GRADED, ()):
            if sample not in chosen:
                continue
            (benchmark, problem, index), scores = sample, folder.scores[sample[0]]
            asked, key = scores.problems[scores.ids.index(problem)], f"{benchmark} {problem}"
            problems.setdefault(key, [asked.problem or asked.prompt, " | ".join(asked.answer or ())])
            second, answer = row.get("correct_rllm_style"), row.get("answer")
            verdicts = [int(row["correct"]), None if second is None else int(second), row["status"]]
            shown = [number, benchmarks.index(benchmark), key, index, *verdicts, row["finish_reason"]]
            shown += [row["num_tokens"], answer and _cut(answer)]
            found.append((shown, _cut(row.get("response", ""))))
    found.sort(key=lambda each: each[0][:4])
    rows, texts = map(list, zip(*found, strict=True))
    return rows, [texts[i : i + BLOCK] for i in range(0, len(texts), BLOCK)], problems


def select(benchmark: str, scores: Scores, quota: int) -> list[SampleKey]:
    """The samples to show: up to half are ones on which the verdicts differ, the rest are the first of each problem.

    If there is no room for the first sample of every problem, a hash of the ids chooses the problems.
    """
    spread = sorted(range(len(scores.ids)), key=lambda i: zlib.crc32(str(scores.ids[i]).encode()))
    cells = [(i, j) for j in range(scores.correct.shape[1]) for i in spread]
    second = scores.correct_rllm_style
    differing = [] if second is None else [(i, j) for i, j in cells if second[i, j] != scores.correct[i, j]]
    chosen = dict.fromkeys([*differing[: quota // 2], *cells])
    return [(benchmark, scores.ids[i], j) for i, j in list(chosen)[:quota]]


def _cut(text: str) -> str:
    """Long text without its middle. Halves of surrogate pairs, which are not characters, become question marks."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MAX_CHARS:
        return text
    left_out = len(text) - MAX_CHARS
    return f"{text[: MAX_CHARS // 3]}\n\n[... {left_out:,} characters left out ...]\n\n{text[-2 * MAX_CHARS // 3 :]}"
