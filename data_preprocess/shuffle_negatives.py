"""Gives every pair the negative of another problem: a control of whether negatives must belong to the problem.

python data_preprocess/shuffle_negatives.py --input data/pairs --output data/pairs_shuffled_negatives
"""

import argparse
import time
from pathlib import Path

import pyarrow as pa

from redi.data.build import is_complete, refuse_output_over_input, whole_number
from redi.data.dataset_card import write_card
from redi.data.reading.table_files import open_rows
from redi.data.shuffle import write_shards
from redi.data.shuffled_negatives import with_negatives_of_others
from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder
from redi.runs.manifest import write_manifest

SUMMARY = "Pairs in which every rejected trace answers the problem of another pair, each used once."
NEEDED = ("rejected", "uuid")


@entry_point
def main(argv: list[str]) -> None:
    started, options = time.time(), parse(argv)
    config, inputs = {"seed": options.seed}, {"pairs": options.input}
    refuse_output_over_input(options.output, inputs)
    if not options.overwrite and is_complete(options.output, config, inputs):
        print(f"{options.output}: already done")
        return
    pairs = read_pairs(options.input)
    with new_folder(options.output, options.overwrite) as folder:
        files = write_shards(with_negatives_of_others(pairs, options.seed), folder)
        counts = {"input_rows": len(pairs), "dropped": {}, "rows": len(pairs), "files": files}
        title = options.output.resolve().name
        write_card(folder, title=title, summary=SUMMARY, config=config, inputs=inputs, counts=counts)
        write_manifest(folder, config=config, inputs=inputs, counts=counts, seed=options.seed, started=started)
    print(f"{options.output}: {len(pairs):,} pairs, each with the negative of another")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, metavar="PATH", help="pairs, as build_pairs.py writes them")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to write train-*.parquet into"
    )
    parser.add_argument("--seed", type=whole_number, default=42, help="of who gets whose negative")
    parser.add_argument("--overwrite", action="store_true", help="draw again, and replace --output where it exists")
    return parser.parse_args(argv)


def read_pairs(source: str) -> pa.Table:
    rows = open_rows(source)
    for name in NEEDED:
        if name not in rows.schema.names:
            raise UsageError(
                f"--input {source} has no column '{name}'; make pairs with data_preprocess/build_pairs.py"
            )
    if rows.num_rows < 2:
        raise UsageError(f"--input {source} has {rows.num_rows} pairs; another problem's negative needs two")
    return pa.Table.from_batches(rows.batches(), rows.schema)


if __name__ == "__main__":
    main()
