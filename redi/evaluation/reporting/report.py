"""Compares graded folders: `table.md`, `table.tex`, `table.json`, `pass_at_1.png` and `report.html`."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from redi.evaluation.files import GRADED, read_samples
from redi.evaluation.reporting.figures import plot_pass_at_1
from redi.evaluation.reporting.html_report import write_page
from redi.evaluation.reporting.scores import GradedFolder, check_comparable, name_folders, read_graded
from redi.evaluation.reporting.statistics import summarize
from redi.evaluation.reporting.tables import latex, markdown
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.manifest import write_manifest
from redi.runs.markdown import fold, grid


def report(
    inputs: Sequence[str | Path],
    output: Path,
    baselines: list[str],
    max_responses: int = 2000,
    show_disagreements: bool = False,
) -> None:
    """Writes the tables, the plot and the page of the graded folders `inputs` to `output`, and prints the tables.

    An input, a folder or NAME=DIR, is one row; benchmarks that only some of them have are left out. Differences are to
    the rows that `baselines` name, by folder or row, or to the first of several. `report.html` gets at most
    `max_responses`. `show_disagreements` also prints every answer on which the two verdicts differ.
    """
    started, inputs = time.time(), [str(each) for each in inputs]
    paths = name_folders(inputs)
    extra = [baseline for baseline in baselines if _find(baseline, paths) is None]
    if missing := [baseline for baseline in extra if not Path(baseline).is_dir()]:
        raise UsageError(f"--baseline {missing[0]} is neither a folder nor one of: {', '.join(paths)}")
    paths = name_folders([*extra, *inputs])
    folders = [read_graded(path, name) for name, path in paths.items()]
    for folder in folders[1:]:
        check_comparable(folders[0], folder)
    shared = [name for name in folders[0].scores if all(name in folder.scores for folder in folders)]
    if not shared:
        raise UsageError(f"--input: no benchmark is in all of {', '.join(paths)}; report them separately")
    compared = [folder for folder in folders if folder.name in {_find(baseline, paths) for baseline in baselines}]
    summary = summarize(folders, compared or folders[: len(folders) > 1], shared)
    folders = [replace(folder, scores={name: folder.scores[name] for name in shared}) for folder in folders]
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(summary)
    write_text(output / "table.md", text)
    write_text(output / "table.tex", latex(summary))
    write_text(output / "table.json", json.dumps(summary, indent=2) + "\n")
    plot_pass_at_1(summary, output / "pass_at_1.png")
    write_page(summary, folders, output / "report.html", max_responses)
    write_manifest(
        output,
        config={"input": [str(path) for path in paths.values()], "baseline": summary["baselines"]},
        inputs={folder.name: folder.path / GRADED for folder in folders},
        counts={folder.name: sum(s.correct.size for s in folder.scores.values()) for folder in folders},
        started=started,
    )
    print(fold(text))
    if show_disagreements:
        print(fold(disagreements(folders)))


def _find(baseline: str, named: dict[str, Path]) -> str | None:
    """The name of the row that a baseline, a folder or a name, means."""
    same = [name for name, path in named.items() if Path(baseline).resolve() == path.resolve()]
    found = [baseline] if baseline in named else same or [n for n, path in named.items() if path.name == baseline]
    if len(found) > 1:
        raise UsageError(f"--baseline {baseline} may be any of {', '.join(found)}; name one of these")
    return found[0] if found else None


def disagreements(folders: list[GradedFolder]) -> str:
    """A Markdown table of every answer on which the two verdicts differ, with the number of times it was given."""
    found: Counter[tuple] = Counter()
    for folder in folders:
        for (benchmark, name, _), row in read_samples(folder.path / GRADED, ("correct", "answer", "gold")):
            differs = row.get("correct_rllm_style") not in (None, row["correct"])
            if differs and benchmark in folder.scores:
                answers = json.dumps(row["gold"]), row["answer"], "correct" if row["correct"] else "wrong"
                found[folder.name, benchmark, name, *answers] += 1
    if not found:
        return "The two verdicts agree on every answer."
    header = ["model", "benchmark", "id", "gold", "answer", "verdict, rllm style differs", "times"]
    return grid(header, [[*where[:3], *map(_short, where[3:]), count] for where, count in found.items()])


def _short(text: str | None, width: int = 60) -> str:
    text = " ".join((text or "none").split())
    return text if len(text) <= width else f"{text[: width - 3]}..."
