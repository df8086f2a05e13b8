"""Builds the verifier ablation: the verdicts are turned around for half of the problems that have both kinds of trace.

python data_preprocess/ablate_verifiers.py --input open-r1/OpenR1-Math-Raw --output data/ablation \
    --tokenizer Qwen/Qwen2.5-Math-1.5B

DIR gets three datasets: `sft` (half 1 positive, half 2 negative, and the other positives), `main` (pairs of half 1)
and `inverted` (pairs of half 2, the negative chosen). Rows are counted over all three by --expect-rows.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from redi.data import verifier_ablation as ablation
from redi.data.build import (
    build_parser,
    check_expected,
    count_table,
    excluded_sources,
    is_complete,
    refuse_output_over_input,
    whole_number,
)
from redi.data.dataset_card import write_card
from redi.data.lengths.length_filter import RESPONSE_TOO_LONG, load_tokenizer
from redi.data.reading.corpus import open_corpus, pinned_input
from redi.data.shuffle import shuffled_places
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import new_folder
from redi.runs.manifest import read_manifest, write_manifest

MAX_RESPONSE_TOKENS = 19000
SAMPLED_DOWN = "sampled down"
SUMMARY = {
    "sft": "Traces for stage 1: accepted ones of half of the problems, refused ones of the other half, and accepted "
    "ones of the problems without a refused one.",
    "main": "Pairs of the first half of the problems: chosen is a trace that both verifiers accept.",
    "inverted": "Pairs of the second half of the problems: chosen is a trace that neither verifier accepts.",
}


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv)
    config = {"exclude_source": excluded_sources(options), "seed": options.seed, "split_seed": ablation.SPLIT_SEED}
    inputs = {"corpus": pinned_input(options.input, options.revision)}
    if options.tokenizer is not None:
        config["max_response_tokens"] = options.max_response_tokens
        inputs["tokenizer"] = options.tokenizer
    refuse_output_over_input(options.output, inputs)
    if not options.overwrite and is_complete(options.output, config, inputs):
        counts = read_manifest(options.output)["counts"]
        check_expected(options.expect_rows, counts["rows"])
        print(f"{options.output}: already done, {counts['rows']} rows")
    else:
        ablate(options, config, inputs)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser(__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", metavar="PATH", help="count tokens with it, and drop the pairs over the limit")
    parser.add_argument(
        "--max-response-tokens",
        type=whole_number,
        metavar="N",
        help=f"inclusive, of the bare text plus 1; {MAX_RESPONSE_TOKENS} where --tokenizer is given",
    )
    options = parser.parse_args(argv)
    if options.max_response_tokens is None:
        options.max_response_tokens = MAX_RESPONSE_TOKENS
    elif options.tokenizer is None:
        raise UsageError("--max-response-tokens needs a tokenizer to count with; pass --tokenizer with the base model")
    return options


def ablate(options: argparse.Namespace, config: dict[str, Any], inputs: dict[str, str]) -> None:
    started = time.time()
    counter = load_tokenizer(options.tokenizer) if options.tokenizer is not None else None
    corpus = open_corpus(inputs["corpus"])
    with new_folder(options.output, options.overwrite) as folder:
        stored = ablation.store(corpus.batches, config["exclude_source"], folder)
        if len(stored.paired) < 2:
            raise UsageError(
                f"--input {options.input}: {len(stored.paired)} problems have a positive and a negative; "
                "at least two are needed, one a half"
            )
        lengths = ablation.count_tokens(stored.pairs, counter, corpus.num_rows) if counter is not None else {}
        counts = write_sets(options, stored, lengths, shuffled_places(corpus.num_rows, config["seed"]), folder)
        stored.pairs.unlink()
        stored.positives.unlink()
        check_expected(options.expect_rows, counts["rows"])
        manifest = {"inputs": inputs, "seed": config["seed"], "started": started}
        for name, of_set in counts["sets"].items():
            write_card(folder / name, title=name, summary=SUMMARY[name], config=config, inputs=inputs, counts=of_set)
            write_manifest(folder / name, config=config | {"set": name}, counts=of_set, **manifest)
        write_manifest(folder, config=config, counts=counts, **manifest)
    print("\n\n".join(f"{options.output / name}\n{count_table(of_set)}" for name, of_set in counts["sets"].items()))


def write_sets(
    options: argparse.Namespace, stored: ablation.Stored, lengths: ablation.Lengths, place: np.ndarray, folder: Path
) -> dict[str, Any]:
    """Writes the three sets into folders of their names and returns the counts for the manifest."""
    halves = ablation.split(stored.paired, stored.single, place)
    half_of = {"main": halves.first, "inverted": halves.second}
    fitting = [
        ablation.within(half, lengths, options.max_response_tokens) if lengths else half for half in half_of.values()
    ]
    if not all(fitting):
        raise UsageError(
            f"--max-response-tokens {options.max_response_tokens} leaves {len(fitting[0])} pairs of half 1 and "
            f"{len(fitting[1])} of half 2; raise it"
        )
    sets = {}
    for name in ablation.SETS:
        (folder / name).mkdir()
    files = ablation.write_sft(stored, halves, len(place), folder / "sft")
    sets["sft"] = {
        "input_rows": len(place),
        "dropped": dict(stored.dropped),
        "rows": sum(files.values()),
        "files": files,
    }
    for (name, half), fits, problems in zip(half_of.items(), fitting, ablation.equal_size(*fitting), strict=True):
        inverted = name == "inverted"
        files = ablation.write_pairs(stored, problems, lengths, len(place), folder / name, inverted)
        dropped = {RESPONSE_TOO_LONG: len(half) - len(fits), SAMPLED_DOWN: len(fits) - len(problems)}
        sets[name] = {"input_rows": len(half), "dropped": dropped, "rows": len(problems), "files": files}
    return {
        "rows": sum(of_set["rows"] for of_set in sets.values()),
        "problems": {"half 1": len(halves.first), "half 2": len(halves.second), "without negative": len(halves.rest)},
        "sets": sets,
        "files": {f"{name}/{file}": n for name, of_set in sets.items() for file, n in of_set["files"].items()},
    }


if __name__ == "__main__":
    main()
