"""Studies how long the traces of pairs or positives are, by source, and what limits would drop.

python data_preprocess/study_lengths.py --input data/pairs --output data/pairs-lengths --max-response-tokens 19000

DIR gets `lengths.png`, and the percentiles as `lengths.md` and `lengths.json`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from redi.data.build import refuse_output_over_input, whole_number
from redi.data.lengths.length_filter import LENGTH_RULES, load_tokenizer
from redi.data.lengths.measure import Recorder, counted, recorded
from redi.data.lengths.plots import plot
from redi.data.lengths.tables import summarise, tables
from redi.data.reading import parquet
from redi.data.reading.corpus import data_files
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder, write_text
from redi.runs.manifest import write_manifest

PAIRS = ("chosen", "rejected")
POSITIVES = ("messages",)
COUNTS = ("prompt_len", "chosen_len", "rejected_len")


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    started = time.time()
    inputs = {"rows": options.input} | ({"tokenizer": options.tokenizer} if options.tokenizer else {})
    refuse_output_over_input(options.output, inputs)
    files, columns = columns_to_measure(options)
    with new_folder(options.output, options.overwrite) as folder:
        rule = options.length_rule or "paper"
        recorder = Recorder(counted(load_tokenizer(options.tokenizer, rule), rule) if options.tokenizer else recorded)
        num_rows = sum(len(table) for table in recorder.recording(read(files, [*columns, "source"])))
        if num_rows == 0:
            raise UsageError(f"--input {options.input} has no rows to measure")
        lengths = recorder.lengths()
        limits = (options.max_prompt_tokens, options.max_response_tokens)
        summary = summarise(lengths, *limits)
        plot(lengths, folder / "lengths.png", *limits)
        write_text(folder / "lengths.md", tables(summary))
        write_text(folder / "lengths.json", json.dumps(summary, indent=2) + "\n")
        config = {
            "length_rule": rule if options.tokenizer else None,
            "max_prompt_tokens": limits[0],
            "max_response_tokens": limits[1],
        }
        write_manifest(folder, config=config, inputs=inputs, counts={"rows": num_rows}, started=started)
    print(tables(summary), end="")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input", required=True, metavar="PATH", help="pairs or positives: parquet, or a folder of it"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="count tokens with it; by default the counts beside the pairs are taken or, without any, characters",
    )
    help_text = "of --tokenizer, as in build_pairs.py; paper by default"
    parser.add_argument("--length-rule", choices=LENGTH_RULES, help=help_text)
    for role in ("prompt", "response"):
        help_text = f"show what is dropped when a longer {role} is; inclusive"
        parser.add_argument(f"--max-{role}-tokens", type=whole_number, metavar="N", help=help_text)
    parser.add_argument("--overwrite", action="store_true", help="replace --output where it exists")
    options = parser.parse_args(argv)
    if options.length_rule is not None and options.tokenizer is None:
        raise UsageError("--length-rule needs a tokenizer to count with; pass --tokenizer with the base model")
    return options


def columns_to_measure(options: argparse.Namespace) -> tuple[list[Path], tuple[str, ...]]:
    """The files, and the columns that the lengths are taken from.

    Raises:
        UsageError: the files hold neither pairs nor positives, or limits in tokens are given without a way to count.
    """
    path = Path(options.input)
    if not path.exists():
        raise UsageError(f"--input {path} does not exist; give the output of build_pairs.py or build_positives.py")
    files = data_files(path)
    schemas = [parquet.schema_of(file) for file in files]
    if not options.tokenizer and all({*COUNTS, "source"} <= set(schema.names) for schema in schemas):
        return files, COUNTS
    if not options.tokenizer:
        for name in ("max_prompt_tokens", "max_response_tokens"):
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option}: {path} holds no token counts; pass --tokenizer to count them")
    for columns in (PAIRS, POSITIVES):
        if all(holds_conversations(schema, columns) for schema in schemas):
            return files, columns
    raise UsageError(
        f"--input {path} holds neither pairs (chosen, rejected, source) nor positives (messages, source); its columns "
        f"are {', '.join(schemas[0].names)}"
    )


def holds_conversations(schema: pa.Schema, columns: tuple[str, ...]) -> bool:
    types = [schema.field(name).type for name in columns if name in schema.names]
    lists = [type_ for type_ in types if pa.types.is_list(type_) or pa.types.is_large_list(type_)]
    turns = [type_.value_type for type_ in lists if pa.types.is_struct(type_.value_type)]
    found = [turn for turn in turns if turn.get_field_index("content") >= 0]
    return "source" in schema.names and len(found) == len(columns)


def read(files: list[Path], columns: list[str]) -> Iterator[pa.Table]:
    for file in files:
        for batch in parquet.read(file, columns):
            yield pa.Table.from_batches([batch])


if __name__ == "__main__":
    main()
