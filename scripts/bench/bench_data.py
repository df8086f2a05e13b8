"""Speed and memory of the data commands, against a plain `datasets` loop that does what the original does.

python scripts/bench/bench_data.py --rows 60000 [--benchmark-folder DIR] [--tokenizer PATH] [--json FILE]
python scripts/bench/bench_data.py --memory 3000 60000 600000 --trace-characters 300 [--json FILE]

The corpus is synthetic, with a fixed seed: see `bench_corpus.py`. Its sizes are printed. With traces of 700 characters
in the median, the loop needs about as much memory for 60,000 rows as the original did. The stages are

- `select`: raw corpus -> pairs without a length filter, both as parquet. Rows are rows of the corpus. Our side is
  `build_pairs.py`.
- `length`: pairs -> pairs within the limits, with their lengths, both as parquet. Rows are pairs. The tokenizer is
  loaded before the clock starts. Both sides encode every text with it; ours uses all cores, the loop one.
- `decontaminate`: raw corpus -> its overlaps with the five benchmarks. Rows are problems. Our side is
  `decontaminate.py`.

The loop is `bench_loop.py`: `load_dataset`, one row (a dict) at a time, a list of dicts, `Dataset.from_list`, one
`apply_chat_template` per turn. In `length`, which would take minutes, it gets the first `--loop-pairs` pairs only;
elsewhere both sides read the same files. Each side of each round runs in a separate process, in turns, so a noisy
machine affects both alike. The figures are

- `rows_per_s`, `mb_per_s`: rows, and MB (1e6) of the text that the stage is about, per second of the median round,
  without imports.
- `rows_per_cpu_s`: rows per second of CPU time, child processes included: it varies least on a busy machine.
- `peak_memory_mb`: the highest resident memory (MiB) of the process, imports included.

With `--memory`, these are the peaks of the commands on corpora of so many rows, `build_pairs.py` with the length
filter, and nothing is compared.
"""

import argparse
import io
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bench_corpus import make_benchmarks, make_corpus, make_tokenizer, positive

from redi.data.lengths.length_rules import (
    MAX_PROMPT_TOKENS,
    MAX_RESPONSE_TOKENS,
    filter_by_length,
    load_counting_tokenizer,
    response_texts,
)
from redi.data.shuffle import write_shards
from redi.evaluation.benchmarks import KNOWN, load_benchmarks
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text

COMMANDS = Path(__file__).parents[2] / "data_preprocess"
LIMITS = {"max_prompt_tokens": MAX_PROMPT_TOKENS, "max_response_tokens": MAX_RESPONSE_TOKENS}
TABLE_ROWS = 2048  # pairs filtered at a time, about as many as in `build_pairs.py`

Amount = tuple[int, float]  # rows, and MB of their text


@dataclass(frozen=True)
class Inputs:
    """The inputs of the stages."""

    corpus: Path
    pairs: Path
    first_pairs: Path
    tokenizer: Path
    benchmarks: Path


def command(name: str, *arguments: object) -> Callable[[], None]:
    """A command of data_preprocess/ with its arguments, imported but not yet run, and silent."""
    import redi.data.lengths.plots  # noqa: F401  a build imports it, with matplotlib, at its end

    main = runpy.run_path(str(COMMANDS / f"{name}.py"))["main"]

    def run() -> None:
        with redirect_stdout(io.StringIO()):
            main([str(argument) for argument in arguments])

    return run


def pair_tables(folder: Path) -> Iterator[pa.Table]:
    for file in sorted(folder.glob("train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(TABLE_ROWS):
            yield pa.Table.from_batches([batch])


def ours(stage: str, inputs: Inputs, scratch: Path) -> Callable[[], object]:
    """Our side of a stage, ready to be called and timed."""
    output = ("--output", scratch / "output")
    if stage == "select":
        return command("build_pairs", "--input", inputs.corpus, *output)
    if stage == "select and length":
        return command("build_pairs", "--input", inputs.corpus, *output, "--tokenizer", inputs.tokenizer)
    if stage == "decontaminate":
        folder = ("--benchmark-folder", inputs.benchmarks)
        return command("decontaminate", "--input", inputs.corpus, *output, *folder)
    tokenizer = load_counting_tokenizer(str(inputs.tokenizer))

    def measure_lengths() -> None:
        kept = (filter_by_length(table, tokenizer, "paper", **LIMITS)[0] for table in pair_tables(inputs.pairs))
        write_shards(kept, scratch)

    return measure_lengths


def loop(stage: str, inputs: Inputs, scratch: Path) -> Callable[[], object]:
    """The loop's side of a stage, ready to be called and timed."""
    import bench_loop  # `datasets` would add to the memory of our side

    places = (scratch / "cache", scratch / "output.parquet")
    if stage == "select":
        return partial(bench_loop.loop_select, inputs.corpus, *places)
    if stage == "decontaminate":
        benchmarks = load_benchmarks(list(KNOWN), inputs.benchmarks)
        questions = {benchmark.name: [row.problem for row in benchmark.problems] for benchmark in benchmarks}
        return partial(bench_loop.loop_decontaminate, inputs.corpus, *places, questions)
    tokenizer = load_counting_tokenizer(str(inputs.tokenizer))
    return partial(bench_loop.loop_length, inputs.first_pairs, *places, tokenizer, LIMITS)


SIDES = {"loop": loop, "ours": ours}
STAGES = ["select", "length", "decontaminate"]


def measure(side: str, stage: str, inputs: Inputs) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory (MiB) of one run in this process."""
    with tempfile.TemporaryDirectory(dir=inputs.corpus.parent) as scratch:
        run = SIDES[side](stage, inputs, Path(scratch))
        started, cpu_started = time.perf_counter(), cpu_seconds()
        run()
        seconds, used = time.perf_counter() - started, cpu_seconds() - cpu_started
    return {"seconds": seconds, "cpu_seconds": used, "peak_memory_mb": peak_memory_mb()}


def peak_memory_mb() -> float:
    """Of this process. (`ru_maxrss` would also cover the process that started it.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    ended = getrusage(RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def in_own_process(side: str, stage: str, inputs: Inputs) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, side, stage, inputs).result()


def make_inputs(folder: Path, rows: int, options: argparse.Namespace) -> tuple[Inputs, dict[str, float]]:
    """Writes the inputs of the stages into a folder, except the pairs; returns them and the sizes of the corpus."""
    names = ("raw.parquet", "pairs", "first_pairs.parquet", "tokenizer", "benchmarks")
    inputs = Inputs(*(folder / name for name in names))
    if options.benchmark_folder is not None:
        inputs = replace(inputs, benchmarks=options.benchmark_folder)
    else:
        make_benchmarks(inputs.benchmarks, KNOWN, options.seed)
    benchmarks = load_benchmarks(list(KNOWN), inputs.benchmarks)
    questions = [row.problem for benchmark in benchmarks for row in benchmark.problems]
    sizes = make_corpus(inputs.corpus, rows, options.trace_characters, questions, options.seed)
    if options.tokenizer is not None:
        inputs = replace(inputs, tokenizer=options.tokenizer)
    else:
        make_tokenizer(inputs.tokenizer, inputs.corpus)
    return inputs, sizes


def make_pairs(inputs: Inputs, loop_pairs: int) -> dict[str, Amount]:
    """Writes the pairs of the corpus, and the first of them for the loop; returns how much each side reads."""
    command("build_pairs", "--input", inputs.corpus, "--output", inputs.pairs)()
    ours = [_amount(table) for table in pair_tables(inputs.pairs)]
    first = pa.concat_tables(islice(pair_tables(inputs.pairs), -(-loop_pairs // TABLE_ROWS))).slice(0, loop_pairs)
    pq.write_table(first, inputs.first_pairs)
    return {"loop": _amount(first), "ours": (sum(rows for rows, _ in ours), sum(mb for _, mb in ours))}


def _amount(pairs: pa.Table) -> Amount:
    columns = [pairs["prompt"], response_texts(pairs["chosen"]), response_texts(pairs["rejected"])]
    return len(pairs), sum(pc.sum(pc.binary_length(column)).as_py() for column in columns) / 1e6


def compare(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Times both sides of all stages; `{stage: {side: figures}}`."""
    inputs, sizes = make_inputs(folder, options.rows, options)
    pairs = make_pairs(inputs, options.loop_pairs)
    print(
        f"{describe(sizes)}, {sizes['problem_mb'] * 1e6 / sizes['rows']:.0f} a problem; {pairs['ours'][0]:,} pairs, "
        f"{pairs['loop'][0]:,} of them for the loop; {os.cpu_count()} cores, {options.repeats} rounds"
    )
    corpus = {"select": sizes["text_mb"], "decontaminate": sizes["problem_mb"]}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for stage in options.stages:
        amounts = pairs if stage == "length" else dict.fromkeys(SIDES, (options.rows, corpus[stage]))
        rounds = {side: [] for side in SIDES}
        for number in range(options.repeats):
            for side in list(SIDES)[:: 1 if number % 2 == 0 else -1]:
                print(f"{stage}, round {number + 1} of {options.repeats}: {side}", file=sys.stderr, flush=True)
                rounds[side].append(in_own_process(side, stage, inputs))
        results[stage] = {side: summarize(rounds[side], *amounts[side]) for side in SIDES}
    return results


def summarize(rounds: list[dict[str, float]], rows: int, mb: float) -> dict[str, float]:
    seconds = median(figures["seconds"] for figures in rounds)
    return {
        "rows_per_s": rows / seconds,
        "rows_per_cpu_s": rows / median(figures["cpu_seconds"] for figures in rounds),
        "mb_per_s": mb / seconds,
        "peak_memory_mb": max(figures["peak_memory_mb"] for figures in rounds),
    }


def describe(sizes: dict[str, float]) -> str:
    return (
        f"{sizes['rows']:,} rows, {sizes['traces']:,} traces, {sizes['text_mb']:,.0f} MB of text, "
        f"{1e6 * (sizes['text_mb'] - sizes['problem_mb']) / sizes['traces']:.0f} bytes a trace"
    )


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A line for each stage and side; each `x` is the ratio of the column before it to the loop's."""
    lines = [f"{'stage':15}{'side':6}{'rows/s':>12}{'x':>7}{'rows/CPU s':>12}{'x':>7}{'MB/s':>8}{'peak MiB':>10}"]
    for stage, sides in results.items():
        for side, x in sides.items():
            speed, cpu = (
                f"{x[key]:,.0f}{x[key] / sides['loop'][key]:7.1f}" for key in ("rows_per_s", "rows_per_cpu_s")
            )
            lines.append(f"{stage:15}{side:6}{speed:>17}{cpu:>19}{x['mb_per_s']:8.1f}{x['peak_memory_mb']:10,.0f}")
    return "\n".join(lines)


def memory(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Prints and returns the peaks of our commands on corpora of several sizes; `{rows: {command: figures}}`."""
    print(f"{'rows':>9}  {'command':18}{'seconds':>9}{'peak MiB':>10}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for rows in options.memory:
        place = folder / str(rows)
        place.mkdir()
        inputs, sizes = make_inputs(place, rows, options)
        results[str(rows)] = {}
        for stage in ("select", "select and length", "decontaminate"):
            x = results[str(rows)][stage] = in_own_process("ours", stage, inputs)
            print(f"{rows:9,}  {stage:18}{x['seconds']:9.1f}{x['peak_memory_mb']:10,.0f}", flush=True)
        print(f"{'':11}{describe(sizes)}, {inputs.corpus.stat().st_size / 1e6:,.0f} MB of parquet")
        shutil.rmtree(place)
    return results


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--rows", type=positive, default=2000, help="problems of the corpus")
    add("--trace-characters", type=positive, default=700, help="median length of a trace")
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="what to time")
    add("--loop-pairs", type=positive, default=1000, help="pairs that the loop tokenises")
    add("--repeats", type=positive, default=3, help="rounds over both sides")
    add("--memory", type=positive, nargs="+", metavar="ROWS", help="show the memory for these sizes instead")
    add("--tokenizer", type=Path, metavar="PATH", help="tokenizer with a chat template; one is trained otherwise")
    add("--benchmark-folder", type=Path, metavar="DIR", help="of the five benchmarks; questions are made up otherwise")
    add("--seed", type=int, default=0, help="of the corpus")
    add("--json", type=Path, metavar="FILE", help="file for {stage: {side: figures}}")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = (memory if options.memory else compare)(options, Path(folder))
    if not options.memory:
        print(table(results))
    if options.json:
        write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
