"""Samples traces of a teacher for the problems of a corpus: the first step of REDI in a new domain.

python data_preprocess/sample_teacher.py --model TEACHER --input problems.jsonl --output data/traces --n 4
python data_preprocess/verify.py --input data/traces --output data/verified
python data_preprocess/build_positives.py --input data/verified --output data/positives
python data_preprocess/build_pairs.py --input data/verified --output data/pairs

The input has `problem` and `answer`, and may be a corpus whose generations another teacher wrote: new traces are added
after them. The samples are kept in DIR.samples, so that a stopped run goes on, and a larger --n or further problems in
the input add to them.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from redi.data.build import refuse_output_over_input
from redi.data.dataset_card import write_card
from redi.data.reading.table_files import open_rows
from redi.data.shuffle import write_shards
from redi.data.teacher_traces import Counts, add_traces, read_problems
from redi.evaluation.files import GENERATIONS
from redi.evaluation.generation.options import (
    add_engine_options,
    add_protocol_options,
    parse_shard,
    sampling_options,
)
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder
from redi.runs.manifest import read_manifest, write_manifest

SUMMARY = "Problems with traces that a teacher wrote for them; data_preprocess/verify.py says which are right."


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    settings = sampling_options(options)
    shard = parse_shard(options.shard)
    refuse_output_over_input(options.output, {"corpus": options.input})
    if not options.overwrite:
        refuse_other_output(options.output, options.samples)
    problems = read_problems(open_rows(options.input))
    from redi.evaluation.generation.generate import generate  # imports torch

    generate(options.model, [problems], options.samples, settings, shard)
    if shard is None:
        write(options, {name: value for name, value in asdict(settings).items() if value is not None})


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PATH", help="the teacher: folder or Hub id")
    parser.add_argument("--input", required=True, metavar="PATH", help="parquet or JSONL, or a folder of either")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the corpus with the traces added")
    parser.add_argument("--samples", type=Path, metavar="DIR", help="where they are kept; DIR.samples if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace an --output that holds something else")
    add_protocol_options(parser)
    add_engine_options(parser)
    parser.set_defaults(n=4, prompt="bare")
    options = parser.parse_args(argv)
    if options.samples is None:
        options.samples = options.output.with_name(f"{options.output.name}.samples")
    return options


def refuse_other_output(output: Path, samples: Path) -> None:
    """What was made of these samples before may be replaced; it holds nothing that they do not."""
    manifest = read_manifest(output) if output.is_dir() else None
    made_of = (manifest or {}).get("inputs", {}).get("samples", {}).get("path")
    ours = made_of is not None and Path(made_of).resolve() == (samples / GENERATIONS).resolve()
    if output.exists() and not ours and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} exists; choose another folder, or pass --overwrite to replace it")


def write(options: argparse.Namespace, config: dict) -> None:
    started = time.time()
    generations = options.samples / GENERATIONS
    inputs = {"corpus": options.input, "samples": generations}
    config = {"model": options.model} | config
    found = Counts()
    with new_folder(options.output, overwrite=True) as folder:
        files = write_shards(add_traces(open_rows(options.input), generations, found), folder)
        counts = {"input_rows": found.rows, "dropped": {}, "files": files} | asdict(found)
        title = options.output.resolve().name
        write_card(folder, title=title, summary=SUMMARY, config=config, inputs=inputs, counts=counts)
        write_manifest(folder, config=config, inputs=inputs, counts=counts, seed=options.seed, started=started)
    print(f"{found.rows:,} rows, {found.traces_added:,} traces added {found.finish_reasons}: {options.output}")
    if found.rows_without_problem:
        print(f"{found.rows_without_problem:,} rows have no problem and got none")
    if found.labels_removed:
        print(f"{found.labels_removed:,} rows had labels, which are removed, as they say nothing of the new traces")
    print(f"next: python data_preprocess/verify.py --input {options.output} --output ...")


if __name__ == "__main__":
    main()
