"""How close training plans come to the ideal step time, and how well their cost model predicts measured times.

python scripts/bench/bench_balance.py [--json FILE]

The fraction of the ideal step time is (sum of the costs of all traces / ranks) / (time of the plan). Both are summed
over many global batches of R1-like lengths up to 19k tokens. The cost of a trace is `redi.engine.batching.step_cost`
at Qwen2.5-1.5B's crossover. Ranks wait for each other in one of two ways:

- `step` (DDP): once, at the end of a step. Time = max over ranks of the sum over micro-batches.
- `micro_batch` (ZeRO, FSDP): at every micro-batch. Time = sum over micro-batches of the max over ranks.

The plans:

- `padded`: rows in their order: in stage 2 one padded pair per micro-batch and rank, which costs twice its longer
  trace, in stage 1 8 padded positives, or fewer if the global batch has fewer for a rank;
- `packed`: the same without pads;
- `redi`: `plan_step` with the same number of micro-batches;
- `redi_room`: `plan_step` with as few micro-batches as possible, each of at most `--room` tokens.

The cases of stage 1 are under `sft` in the JSON file.

`bound` is the best possible fraction. Traces are not split, so a step takes at least as long as its longest trace.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from redi.engine.attention import enable_packing
from redi.engine.batching import Trace, collate, plan_step, step_cost
from redi.engine.logprobs import add_scoring
from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text

QWEN_1_5B = {"parameters": 1_543_714_304, "layers": 28, "hidden": 1536}
CASES = [(1, 32), (8, 32), (64, 32), (64, 256)]  # ranks, pairs of a global batch
SFT_CASES = [(8, 128), (16, 128), (64, 128)]  # ranks, positives of a global batch
SFT_PER_DEVICE = 8
PLANS = ["padded", "packed", "redi", "redi_room"]


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def r1_lengths(num_pairs: int, max_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Prompt, chosen and rejected lengths distributed like those of DeepSeek-R1's traces. `(num_pairs, 3)`

    Completions are log-normal (sigma 0.7), at most `max_tokens`, with medians of 0.17 (chosen) and 0.22 (rejected)
    times `max_tokens`. The log-lengths of a pair have a correlation of 0.5, because hard problems have long traces.
    Prompts are short.
    """
    shared, own = rng.standard_normal((num_pairs, 1)), rng.standard_normal((num_pairs, 2))
    medians = np.array([0.17, 0.22]) * max_tokens
    completions = medians * np.exp(0.7 * math.sqrt(0.5) * (shared + own))
    prompts = 0.02 * max_tokens * np.exp(0.5 * rng.standard_normal((num_pairs, 1)))
    lengths = np.concatenate([prompts.clip(4, max(4, 0.05 * max_tokens)), completions.clip(2, max_tokens)], axis=1)
    return lengths.astype(int)


def in_order(traces: np.ndarray, num_ranks: int, pair_cost: Callable[[np.ndarray], float]) -> np.ndarray:
    """Costs `(ranks, micro-batches)` of pairs, or groups of traces, in their order, one per rank and micro-batch."""
    costs = np.zeros((num_ranks, -(-len(traces) // num_ranks)))
    for i, pair in enumerate(traces):
        costs[i % num_ranks, i // num_ranks] = pair_cost(pair)
    return costs


def planned(
    lengths: list[int], cost: Callable[[int], float], num_ranks: int, num_micro_batches: int, room: int | None
) -> np.ndarray:
    """Costs `(ranks, micro-batches)` of the plan that training uses."""
    plan = plan_step(lengths, cost, num_ranks, num_micro_batches, room)
    return np.array([[sum(cost(lengths[i]) for i in batch) for batch in rank] for rank in plan])


def balance(num_ranks: int, num_rows: int, sft: bool, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Fractions of the ideal time by plan, and the planning time of `redi` in milliseconds per global batch."""
    group = min(SFT_PER_DEVICE, max(1, num_rows // num_ranks)) if sft else 1  # rows of a micro-batch in their order
    crossover = QWEN_1_5B["parameters"] / (QWEN_1_5B["layers"] * QWEN_1_5B["hidden"])
    cost = step_cost(crossover)
    rng = np.random.default_rng(options.seed)
    num_micro_batches = -(-num_rows // (num_ranks * group))
    ideal = bound = planning = 0.0
    times = {name: np.zeros(3) for name in PLANS}  # step, micro_batch, number of micro-batches
    for _ in range(options.batches):
        lengths = r1_lengths(num_rows, options.max_tokens, rng)
        traces = lengths[:, :1] + lengths[:, 1:]  # (num_rows, 2)
        traces = traces[:, 0].reshape(-1, group) if sft else traces
        flat = traces.flatten().tolist()
        room = max(options.room, *flat)
        started = time.perf_counter()
        ours = planned(flat, cost, num_ranks, num_micro_batches, None)
        planning += time.perf_counter() - started
        plans = {
            "padded": in_order(traces, num_ranks, lambda row: len(row) * cost(row.max())),
            "packed": in_order(traces, num_ranks, lambda row: sum(map(cost, row))),
            "redi": ours,
            "redi_room": planned(flat, cost, num_ranks, 1, room),
        }
        for name, costs in plans.items():
            times[name] += (costs.sum(axis=1).max(), costs.max(axis=0).sum(), costs.shape[1])
        total = sum(map(cost, flat)) / num_ranks
        ideal, bound = ideal + total, bound + max(total, cost(max(flat)))
    figures = {
        name: {"step": ideal / at_end, "micro_batch": ideal / at_each, "micro_batches": number / options.batches}
        for name, (at_end, at_each, number) in times.items()
    }
    return figures | {"bound": ideal / bound, "planning_ms": 1000 * planning / options.batches}


def print_balance(cases: dict[str, dict], room: int) -> None:
    print(f"Fraction of the ideal step time, ranks waiting once per step / per micro-batch; room {room} tokens")
    print(f"{'':27}" + "".join(f"{name:>16}" for name in PLANS) + f"{'bound':>8}{'planning':>11}")
    for case, x in cases.items():
        cells = "".join(f"{x[name]['step']:9.3f} /{x[name]['micro_batch']:5.3f}" for name in PLANS)
        print(f"{case:27}{cells}{x['bound']:8.3f}{x['planning_ms']:8.1f} ms")


def measure_costs(options: argparse.Namespace) -> dict[str, list[float] | float]:
    """Compares forward and backward times of a small Qwen2, on one packed trace per length, with the cost model.

    Measured and predicted times are each divided by their geometric mean over the lengths. The error at a length is
    measured / predicted - 1. The lengths take turns, and the shortest time of each counts.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = Qwen2Config(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu")
    add_scoring(model)
    enable_packing(model)
    crossover = model.num_parameters() / (config.num_hidden_layers * config.hidden_size)
    seconds = np.full((options.repeats, len(options.lengths)), np.inf)
    for turn in range(-1, options.repeats):  # the first turn warms up
        for i, length in enumerate(options.lengths):
            batch = collate([Trace([1] * length, 1, 1.0, True, 0)], True, 0)
            inputs = batch["model_inputs"] | {name: batch[name] for name in ("positions", "targets")}
            inputs = {name: x.to(model.device) if torch.is_tensor(x) else x for name, x in inputs.items()}
            started = time.perf_counter()
            model(**inputs).sum().backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[turn, i] = time.perf_counter() - started
            model.zero_grad()
    measured = seconds.min(axis=0)
    predicted = np.array([step_cost(crossover)(length) for length in options.lengths])
    measured, predicted = (x / np.exp(np.log(x).mean()) for x in (measured, predicted))
    return {
        "crossover": crossover,
        "lengths": options.lengths,
        "measured": measured.tolist(),
        "predicted": predicted.tolist(),
        "largest_error": float(np.abs(measured / predicted - 1).max()),
    }


def print_costs(costs: dict) -> None:
    print(f"\nRelative time of a trace: measured on a small model, predicted as n + n^2 / {costs['crossover']:.0f}")
    print(f"{'tokens':>8}{'measured':>10}{'predicted':>11}{'error':>8}")
    for length, measured, predicted in zip(costs["lengths"], costs["measured"], costs["predicted"], strict=True):
        print(f"{length:8}{measured:10.3f}{predicted:11.3f}{measured / predicted - 1:8.1%}")
    print(f"largest error {costs['largest_error']:.1%}")


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--batches", type=positive, default=200, help="number of global batches to plan")
    add("--max-tokens", type=positive, default=19000, help="longest completion")
    add(
        "--room",
        type=positive,
        default=20000,
        help="capacity of a micro-batch of `redi_room` in tokens, unless a trace is longer",
    )
    add("--lengths", type=positive, nargs="+", default=[256, 512, 1024, 2048, 4096], help="trace lengths to time")
    add("--repeats", type=positive, default=5, help="times that each length is timed")
    add("--threads", type=positive, default=2, help="CPU threads")
    add("--seed", type=int, default=0, help="seed of the lengths and the weights")
    add("--json", type=Path, help="file for the figures")
    options = parser.parse_args(argv)
    cases = {f"{ranks} ranks, {pairs} pairs": balance(ranks, pairs, False, options) for ranks, pairs in CASES}
    sft = {f"{ranks} ranks, {rows} positives": balance(ranks, rows, True, options) for ranks, rows in SFT_CASES}
    print_balance(cases | sft, options.room)
    costs = measure_costs(options)
    print_costs(costs)
    if options.json:
        write_text(options.json, json.dumps({"balance": cases, "sft": sft, "cost_model": costs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
