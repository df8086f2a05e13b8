"""Fills the verifier columns of a corpus with the project's grader, and compares it with the labels that are there.

python data_preprocess/verify.py --input data/traces.jsonl --output data/verified
python data_preprocess/verify.py --input data/raw --output data/agreement --report-only --show 5

There is one grader here, so the columns that it fills hold the same verdict. DIR gets `report.json` and
`manifest.json`, and without --report-only the whole corpus as `train-*.parquet`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from redi.data.build import is_complete, refuse_output_over_input, whole_number
from redi.data.dataset_card import write_card
from redi.data.reading.schema import VERIFIERS
from redi.data.reading.table_files import open_rows
from redi.data.shuffle import write_shards
from redi.data.verification import Tally, agreement_table, check_rows, compare_only, examples, report, verify
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder, write_text
from redi.runs.manifest import write_manifest
from redi.runs.markdown import grid

REPORT = "report.json"
SUMMARY = "A corpus of traces whose verifier columns were filled by the project's grader."


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    inputs = {"corpus": options.input}
    config = {name: getattr(options, name) for name in ("columns", "overwrite_labels", "whole_traces", "report_only")}
    refuse_output_over_input(options.output, inputs)
    reported = (options.output / REPORT).is_file()
    if reported and not options.overwrite and is_complete(options.output, config, inputs):
        print(f"{options.output}: already done")
    else:
        write(options, config, inputs)
    show(json.loads((options.output / REPORT).read_text(encoding="utf-8")), options)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, metavar="PATH", help="parquet or JSONL, or a folder of either")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=VERIFIERS,
        default=list(VERIFIERS),
        metavar="NAME",
        help=f"verifier columns to fill where a row has none, of {', '.join(VERIFIERS)}",
    )
    parser.add_argument("--overwrite-labels", action="store_true", help="fill them where a row has one, too")
    parser.add_argument("--report-only", action="store_true", help="grade and compare, but write no corpus")
    parser.add_argument(
        "--whole-traces",
        action="store_true",
        help="grade a trace without </think> from its beginning: for teachers that do not think aloud",
    )
    parser.add_argument("--workers", type=whole_number, metavar="N", help="of the grader; one a core if not given")
    parser.add_argument("--show", type=whole_number, default=0, metavar="N", help="print N disagreements of each kind")
    parser.add_argument("--overwrite", action="store_true", help="grade again, and replace --output where it exists")
    options = parser.parse_args(argv)
    if options.report_only and options.overwrite_labels:
        raise UsageError("--overwrite-labels has nothing to overwrite with --report-only; leave one of them out")
    if options.workers == 0:
        raise UsageError("--workers 0: at least one worker is needed; leave it out for one a core")
    return options


def write(options: argparse.Namespace, config: dict[str, Any], inputs: dict[str, str]) -> None:
    started = time.time()
    rows, tally = open_rows(options.input), Tally()
    check_rows(rows)
    if rows.num_rows == 0:
        raise UsageError(f"--input {options.input} has no rows")
    with new_folder(options.output, options.overwrite) as folder:
        if options.report_only:
            compare_only(rows, tally, options.whole_traces, options.workers)
            files = {}
        else:
            labels = (options.columns, options.overwrite_labels, options.whole_traces, options.workers)
            files = write_shards(verify(rows, tally, *labels), folder)
        found = report(tally)
        write_text(folder / REPORT, json.dumps(found, indent=1) + "\n")
        counts = {"input_rows": tally.num_rows, "dropped": {}, "files": files}
        counts |= {key: value for key, value in found.items() if key != "examples"}
        if files:
            title = options.output.resolve().name
            write_card(folder, title=title, summary=SUMMARY, config=config, inputs=inputs, counts=counts)
        write_manifest(folder, config=config, inputs=inputs, counts=counts, started=started)


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    accepted, total = found["accepted"], found["generations"]
    share = f" ({accepted / total:.1%})" if total else ""
    lines = [f"{found['rows']:,} rows, {total:,} generations graded, {accepted:,} accepted{share}"]
    lines += [
        f"{found[key]:,} {key.replace('_', ' ')}, not graded"
        for key in ("rows_without_answer", "rows_without_generations")
        if found[key]
    ]
    lines += [f"{name}: filled in {count:,} rows" for name, count in found["filled_rows"].items()]
    if found["statuses"]["no_think_end"] == total > 0:
        lines.append("no generation has </think>; for a teacher that does not think aloud, pass --whole-traces")
    parts = ["\n".join(lines), grid(["status", "generations"], [[s, f"{n:,}"] for s, n in found["statuses"].items()])]
    if found["agreement"]:
        parts.append(agreement_table(found))
    if options.show and found["examples"]:
        parts.append(examples(found, options.show))
    print("\n\n".join([*parts, f"Report: {options.output / REPORT}"]))


if __name__ == "__main__":
    main()
