"""How often the teacher and the trained models of the quickstart skip, and how many of their worked lines are right.

python scripts/quickstart/show_habit.py --corpus RAW.parquet --input EVALUATION [EVALUATION ...] --output FILE.md

The share of right worked lines is the health check of the SFT stage: where a model has not learned the arithmetic,
there is little for the negatives to improve.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
from task import LineCounts, count_lines

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import write_text


def teacher_counts(corpus: Path) -> dict[str, LineCounts]:
    """Counts over the corpus' correct and incorrect traces."""
    sides = {True: LineCounts(), False: LineCounts()}
    for row in pq.read_table(corpus, columns=["problem", "generations", "correctness"]).to_pylist():
        verdicts = row["correctness"]["math_verify_reparsed_answer"]
        for generation, correct in zip(row["generations"], verdicts, strict=True):
            count_lines(row["problem"], generation, sides[correct])
    return {"teacher, correct traces": sides[True], "teacher, incorrect traces": sides[False]}


def model_counts(evaluation: Path) -> LineCounts:
    """Counts over the generations of one evaluation of the quickstart's benchmark."""
    path = evaluation / "generations.jsonl"
    if not path.is_file():
        raise UsageError(f"--input {evaluation} holds no generations.jsonl: run scripts/evaluate.py generate first")
    counts = LineCounts()
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            count_lines(row["prompt"], row["response"], counts)
    return counts


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="the synthetic raw corpus, a parquet file")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="folders of scripts/evaluate.py")
    parser.add_argument("--output", type=Path, required=True, help="markdown file to write")
    options = parser.parse_args(argv)
    rows = teacher_counts(options.corpus) | {folder.name: model_counts(folder) for folder in options.input}
    lines = ["| | skips, of its chances | worked lines that are right |", "|---|---:|---:|"]
    for name, counts in rows.items():
        right = f"{counts.worked_right_rate:.1%}" if counts.worked else "no lines"
        skips = f"{counts.skip_rate:.1%}" if counts.chances else "no lines"
        lines.append(f"| {name} | {skips} | {right} |")
    table = "\n".join(lines) + "\n"
    write_text(options.output, table)
    print(table)


if __name__ == "__main__":
    main()
