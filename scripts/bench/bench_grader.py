"""Measures the grader on ordinary responses: responses per second, also of math-verify, and the slowest response.

python scripts/bench/bench_grader.py --benchmark math500 minerva --benchmark-folder data/benchmarks --workers 2

Each response is a thought of several thousand characters, then the reference answer (60 %), the same in another
spelling (15 %), the reference answer of another problem (15 %), or no answer (10 %). They are graded as by
`evaluate.py grade`: the workers' start counts, and equal answers to a problem are compared once.
"""

import json
import random
import time
from pathlib import Path

from redi.evaluation.benchmarks import DEFAULT_FOLDER, KNOWN, load_benchmarks
from redi.evaluation.grading.verdict import grade_many, grade_response
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text

THOUGHT = "Let me see. Wait, that is not right: \\boxed{7} would need another case. " * 100


def respelled(answer: str) -> str:
    """The same value in a spelling that models use."""
    answer = answer.strip().strip("$")
    return f"{answer.replace(chr(92) + 'frac', chr(92) + 'dfrac').replace(',', ', ')}."


def make_responses(golds: list[str | list[str]], n: int, seed: int = 0) -> list[tuple[str, str | list[str], bool]]:
    """n responses to each reference answer: text, reference answer, and whether the response is correct."""
    rng = random.Random(seed)
    made = []
    for gold in golds:
        first = gold if isinstance(gold, str) else gold[0]
        for _ in range(n):
            share = rng.random()
            if share < 0.9:
                other = rng.choice(golds)
                other = other if isinstance(other, str) else other[0]
                answer = first if share < 0.6 else respelled(first) if share < 0.75 else other
                answer = f"\n\nTherefore, the final answer is: $\\boxed{{{answer}}}$. I hope it is correct"
            else:
                answer = "\n\nI cannot say."
            made.append((f"<think>\n{THOUGHT}\n</think>{answer}", gold, share < 0.75))
    return made


def math_verify_rate(made: list[tuple[str, str | list[str], bool]], sample: int = 300) -> float:
    """Responses per second of math-verify alone, in one process, on the text after the thought."""
    from math_verify import parse, verify

    parse("$x$")  # imports
    chosen = random.Random(0).sample(made, min(sample, len(made)))
    start = time.perf_counter()
    for text, gold, _ in chosen:
        answer = parse(text.rpartition("</think>")[2])
        any(verify(parse(f"${reference}$"), answer) for reference in ([gold] if isinstance(gold, str) else gold))
    return len(chosen) / (time.perf_counter() - start)


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", nargs="+", default=list(KNOWN), metavar="NAME_OR_JSONL", help="to grade")
    parser.add_argument("--benchmark-folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="of known names")
    parser.add_argument("--n", type=int, default=16, help="responses per problem")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    options = parser.parse_args(argv)
    benchmarks = load_benchmarks(options.benchmark, options.benchmark_folder)
    golds = [problem.answer for benchmark in benchmarks for problem in benchmark.problems]
    made = make_responses(golds, options.n)
    start = time.perf_counter()
    grades = grade_many([text for text, _, _ in made], [gold for _, gold, _ in made], options.workers)
    seconds = time.perf_counter() - start
    missed = sum(correct and not grade.correct for (_, _, correct), grade in zip(made, grades, strict=True))
    alone = math_verify_rate(made)
    slowest = 0.0
    for text, gold, _ in made[:: options.n]:
        start = time.perf_counter()
        grade_response(text, gold)
        slowest = max(slowest, time.perf_counter() - start)
    result = {
        "responses": len(made),
        "workers": options.workers,
        "seconds": round(seconds, 2),
        "responses_per_second": round(len(made) / seconds),
        "math_verify_per_second_and_process": round(alone),
        "times_math_verify": round(len(made) / seconds / (alone * options.workers), 1),
        "golds_not_recognized": missed,
        "slowest_alone_seconds": round(slowest, 2),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        write_text(options.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
