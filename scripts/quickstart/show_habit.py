"""How often the quickstart's teacher and models skip steps, and how many of their worked lines are correct.

python scripts/quickstart/show_habit.py --corpus RAW --input EVALUATION [EVALUATION ...] --output FILE.md

The share of correct worked lines is the health check of the SFT stage: a model that has not learned the arithmetic
gains little from negatives.
"""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from task import count_lines

from redi.evaluation.files import GENERATIONS
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text
from redi.runs.jsonl import iter_jsonl
from redi.runs.markdown import grid


def teacher_counts(corpus: Path) -> dict[str, Counter[str]]:
    """Counts over the correct and the incorrect traces of the corpus."""
    sides = {True: Counter(), False: Counter()}
    for row in pq.read_table(corpus, columns=["problem", "generations", "correctness"]).to_pylist():
        verdicts = row["correctness"]["math_verify_reparsed_answer"]
        for generation, correct in zip(row["generations"], verdicts, strict=True):
            sides[correct] += count_lines(row["problem"], generation)
    return {"teacher, correct traces": sides[True], "teacher, incorrect traces": sides[False]}


def model_counts(evaluation: Path) -> Counter[str]:
    """Counts over the answers of one model to the quickstart's benchmark."""
    rows = iter_jsonl(evaluation / GENERATIONS, ("prompt", "response"))
    return sum((count_lines(row["prompt"], row["response"]) for row in rows), Counter())


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="the synthetic raw corpus")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="folders of scripts/evaluate.py")
    parser.add_argument("--output", type=Path, required=True, help="markdown file to write")
    options = parser.parse_args(argv)
    rows = []
    counts = teacher_counts(options.corpus) | {folder.name: model_counts(folder) for folder in options.input}
    for name, c in counts.items():
        shares = ((c["skips"], c["chances"]), (c["worked_right"], c["worked"]))
        rows.append([name, *(f"{part / total:.1%}" if total else "no lines" for part, total in shares)])
    table = grid(["", "skips, of all chances to skip", "worked lines that are correct"], rows) + "\n"
    write_text(options.output, table)
    print(table)


if __name__ == "__main__":
    main()
