"""Finds the problems that share 8 words in a row with a question of the reported benchmarks, and drops them on demand.

python data_preprocess/decontaminate.py --input data/pairs --output data/overlaps --show 3
python data_preprocess/decontaminate.py --input data/pairs --output data/clean-pairs --drop

DIR gets `report.json` and `manifest.json`, and with --drop the other rows as `train-*.parquet`, unchanged.
"""

import argparse
import json
import time
from itertools import chain
from pathlib import Path

from redi.data.build import count_table, is_complete, refuse_output_over_input, whole_number
from redi.data.dataset_card import write_card
from redi.data.decontamination import (
    NGRAM_WORDS,
    OverlapIndex,
    Tally,
    examples,
    load_questions,
    problem_column,
    problem_texts,
    report,
    report_table,
    without_overlaps,
)
from redi.data.reading.table_files import open_rows
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import DEFAULT_FOLDER, KNOWN
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder, write_text
from redi.runs.manifest import read_manifest, write_manifest

REPORT = "report.json"
SUMMARY = "The rows of a dataset whose problem shares no n-gram with a question of the benchmarks, as they were."
OVERLAPS = "overlaps a benchmark"  # the reason for a drop


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    questions = load_questions(options.benchmark, options.benchmark_folder, options.jsonl)
    inputs = {"corpus": options.input} | {path.stem: str(path) for path in questions}
    config = {
        "ngram_words": options.ngram_words,
        "drop": options.drop,
        "benchmarks": [path.stem for path in questions],
    }
    refuse_output_over_input(options.output, inputs)
    reported = (options.output / REPORT).is_file()
    if reported and not options.overwrite and is_complete(options.output, config, inputs):
        print(f"{options.output}: already done")
    else:
        decontaminate(options, OverlapIndex(chain(*questions.values()), options.ngram_words), config, inputs)
    show(options)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, metavar="PATH", help="parquet or JSONL, or a folder of either")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--benchmark",
        nargs="+",
        default=list(KNOWN),
        metavar="NAME_OR_JSONL",
        help="names, or files of id, problem, answer",
    )
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="of known names")
    parser.add_argument(
        "--jsonl",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
        help="further questions, of which only 'problem' is read",
    )
    parser.add_argument("--ngram-words", type=whole_number, default=NGRAM_WORDS, metavar="N", help="words in a row")
    parser.add_argument("--show", type=whole_number, default=0, metavar="N", help="print N overlaps per benchmark")
    parser.add_argument("--drop", action="store_true", help="write the rows that overlap with nothing")
    parser.add_argument("--overwrite", action="store_true", help="look again, and replace --output where it exists")
    options = parser.parse_args(argv)
    if options.ngram_words == 0:
        raise UsageError("--ngram-words 0: an overlap has at least 1 word; the original's are of 8")
    return options


def decontaminate(
    options: argparse.Namespace, index: OverlapIndex, config: dict[str, object], inputs: dict[str, str]
) -> None:
    started = time.time()
    rows = open_rows(options.input)
    column = problem_column(rows.schema, options.input)
    tally = Tally()
    with new_folder(options.output, options.overwrite) as folder:
        files = {}
        if options.drop:
            files = write_shards(without_overlaps(rows, column, index, tally), folder)
            if not files:
                raise UsageError(f"--input {options.input}: no rows are left of {tally.num_rows}; nothing is written")
        else:
            for batch in rows.batches([column]):
                tally.add(problem_texts(batch[column]), index)
        write_text(folder / REPORT, json.dumps(report(tally, index), indent=1) + "\n")
        counts = {"input_rows": tally.num_rows, "overlapping_rows": len(tally.overlaps), "files": files}
        if options.drop:
            counts |= {"dropped": {OVERLAPS: len(tally.overlaps)}, "rows": sum(files.values())}
            title = options.output.resolve().name
            write_card(folder, title=title, summary=SUMMARY, config=config, inputs=inputs, counts=counts)
        write_manifest(folder, config=config, inputs=inputs, counts=counts, started=started)


def show(options: argparse.Namespace) -> None:
    found = json.loads((options.output / REPORT).read_text(encoding="utf-8"))
    parts = [report_table(found)]
    if found["rows_without_problem"]:
        parts.append(f"Rows without a problem, so with nothing to compare: {found['rows_without_problem']:,}")
    if options.show and found["overlaps"]:
        parts.append(examples(found, options.show))
    if options.drop:
        parts.append(count_table(read_manifest(options.output)["counts"]))
    print("\n\n".join([*parts, f"Every overlap: {options.output / REPORT}"]))


if __name__ == "__main__":
    main()
