"""Command-line options that several data commands share."""

import argparse
from pathlib import Path

from redi.runs.cli import StrictParser

FILES_HELP = "parquet, JSON or CSV file, or a folder of one kind"


def whole_number(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not '{text}'")
    return int(text)


def rows_parser(description: str, output_help: str, input_help: str = FILES_HELP) -> StrictParser:
    """A parser with `--input` (`source`), `--output` and `--overwrite`."""
    parser = StrictParser(description=description)
    parser.add_argument("--input", dest="source", required=True, metavar="PATH", help=input_help)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=output_help)
    parser.add_argument("--overwrite", action="store_true", help="run again, and replace --output if it exists")
    return parser


def corpus_parser(description: str) -> StrictParser:
    """A parser with the options of the builds from a raw corpus."""
    input_help = f"{FILES_HELP}, or a Hub dataset as owner/name"
    parser = rows_parser(description, "folder to write train-*.parquet into", input_help)
    parser.add_argument("--revision", help="branch, tag or commit of a Hub dataset; its newest commit by default")
    sources = parser.add_mutually_exclusive_group()
    help_text = "drop the rows whose source is exactly NAME; may be repeated; without it, cn_k12 is dropped"
    sources.add_argument("--exclude-source", action="append", metavar="NAME", help=help_text)
    keep = {"action": "store_const", "const": [], "dest": "exclude_source"}
    sources.add_argument("--keep-all-sources", **keep, help="drop no source, not even cn_k12")
    help_text = "traces cut at the token limit (finish_reasons: length): the paper keeps them, mostly as negatives"
    parser.add_argument("--truncated", choices=("keep", "drop"), default="keep", help=help_text)
    parser.add_argument("--seed", type=whole_number, default=42, help="of the shuffle before the selection")
    parser.add_argument("--expect-rows", type=whole_number, metavar="N", help="fail unless exactly N rows come out")
    return parser
