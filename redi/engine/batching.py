"""Problems -> traces -> micro-batches: what each rank computes in each optimizer step.

The objectives of both stages, SFT and Eq. (5), are signed sums over traces, so a trace may be computed anywhere in its
global batch. The traces of a global batch are spread over all micro-batches of all ranks so that the ranks finish
together. Each micro-batch is one row of complete traces with no pad token. The gradient does not depend on the split.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import repeat
from typing import Any

import torch
from datasets import Dataset

from redi.text.training_rows import lengths_of, num_masked


@dataclass(frozen=True)
class Trace:
    """A prompt with one completion, and its place in the objective.

    Attributes:
        token_ids: prompt and completion.
        num_prompt: number of prompt tokens. The remaining tokens are scored.
        share: the completion's share of its side of its problem, weight / sum of weights. It is 1 for a pair.
        is_chosen: whether the trace is a positive.
        problem: the position of its problem in the global batch.
    """

    token_ids: list[int]
    num_prompt: int
    share: float
    is_chosen: bool
    problem: int

    @property
    def num_scored(self) -> int:
        return len(self.token_ids) - self.num_prompt


def traces_of(problem: dict[str, Any], position: int, max_length: int | None, alpha: float) -> list[Trace]:
    """The traces of one dataset row, cut to `max_length`. Negatives are left out if `alpha` is 0.

    Args:
        problem: a row returned by `redi.text.training_rows.prepare_rows`; a positive is a problem with one trace.
        position: the row's position in its global batch.
    """
    if "input_ids" in problem:
        return [Trace(problem["input_ids"][:max_length], num_masked(problem["labels"]), 1.0, True, position)]
    if "chosen_ids" in problem:
        completions, labels, weights = [problem["chosen_ids"], problem["rejected_ids"]], [True, False], [1.0, 1.0]
    else:
        completions, labels, weights = problem["completion_ids"], problem["labels"], problem["weights"]
    sums = {side: sum(w for w, label in zip(weights, labels, strict=True) if label == side) for side in (True, False)}
    prompt = problem["prompt_ids"]
    return [
        Trace((prompt + ids)[:max_length], len(prompt), weight / sums[label], label, position)
        for ids, label, weight in zip(completions, labels, weights, strict=True)
        if label or alpha > 0
    ]


def step_cost(crossover: float) -> Callable[[int], float]:
    """Returns the relative time of a trace of n tokens: n (all linear work) + n^2 / crossover (attention).

    Args:
        crossover: tokens at which attention costs as much as everything else, parameters / (layers * hidden size). A
            token costs 6 * parameters FLOPs in matrix products and 6 * layers * hidden size * n in causal attention.
    """
    return lambda num_tokens: num_tokens * (1 + num_tokens / crossover)


ROUND_HEIGHTS = (1.0, 1.05, 1.1, 1.2)  # tried for every step


def plan_step(
    lengths: Sequence[int],
    cost: Callable[[int], float],
    num_ranks: int,
    num_micro_batches: int,
    max_tokens: int | None = None,
) -> list[list[list[int]]]:
    """Spreads the traces of a global batch over ranks and micro-batches. Every rank gets equally many micro-batches.

    The k-th micro-batches of all ranks run at the same time and form a round. They get similar costs: rounds are
    filled one after the other, longest traces first (see `_fill_rounds`). Plans for several heights of a round are
    compared by the total time of their rounds. Within a round, the costliest micro-batch goes to the rank with the
    least work so far. The plan is deterministic.

    Args:
        lengths: tokens of each trace.
        cost: time of a trace by its length; see `step_cost`.
        num_micro_batches: micro-batches per rank; with `max_tokens`, their minimum.
        max_tokens: capacity of a micro-batch in tokens. Micro-batches are added until everything fits.

    Returns:
        `plan[rank][micro_batch]`: the indices of its traces. With too few traces, some micro-batches are empty.

    Raises:
        ValueError: a trace is longer than `max_tokens`.
    """
    if max_tokens is not None and lengths and max(lengths) > max_tokens:
        raise ValueError(
            f"a trace of {max(lengths)} tokens does not fit max_tokens_per_micro_batch={max_tokens}; raise it, or set "
            f"max_length={max_tokens}"
        )
    costs = [cost(length) for length in lengths]
    candidates = []
    while not candidates:
        filled = (
            _fill_rounds(lengths, costs, num_ranks, num_micro_batches, max_tokens, height) for height in ROUND_HEIGHTS
        )
        candidates = [rounds for rounds in filled if rounds is not None]
        num_micro_batches += 1
    best = min(candidates, key=lambda rounds: sum(max(loads) for _, loads in rounds))
    plan: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    totals = [0.0] * num_ranks
    for bins, loads in sorted(best, key=lambda filled_round: -max(filled_round[1])):
        ranks = sorted(range(num_ranks), key=lambda rank: (totals[rank], rank))
        for rank, b in zip(ranks, sorted(range(num_ranks), key=lambda b: (-loads[b], b)), strict=True):
            plan[rank].append(sorted(bins[b]))
            totals[rank] += loads[b]
    return plan


def _fill_rounds(
    lengths: Sequence[int],
    costs: Sequence[float],
    num_ranks: int,
    num_rounds: int,
    max_tokens: int | None,
    height: float,
) -> list[tuple[list[list[int]], list[float]]] | None:
    """Fills rounds of one micro-batch per rank. Returns them with their costs, or None if a trace does not fit."""
    # Traces are taken longest first. Each goes into the round's cheapest micro-batch with enough capacity. Before the
    # last round, the cost of a micro-batch is limited to `height` times the larger of two numbers: the cost of the
    # longest remaining trace, and an equal share of all remaining work. A trace above it waits for the next round.
    left = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rounds = []
    for rounds_left in range(num_rounds, 0, -1):
        share = sum(costs[i] for i in left) / (num_ranks * rounds_left)
        limit = height * max(share, *(costs[i] for i in left[:1]), 0.0) * (1 + 1e-9) if rounds_left > 1 else math.inf
        bins: list[list[int]] = [[] for _ in range(num_ranks)]
        tokens, loads, passed = [0] * num_ranks, [0.0] * num_ranks, []
        for i in left:
            roomy = (b for b in range(num_ranks) if max_tokens is None or tokens[b] + lengths[i] <= max_tokens)
            b = min(roomy, key=loads.__getitem__, default=None)
            if b is None or loads[b] + costs[i] > limit:
                passed.append(i)
                continue
            bins[b].append(i)
            tokens[b] += lengths[i]
            loads[b] += costs[i]
        rounds.append((bins, loads))
        left = passed
    return None if left else rounds


def collate(traces: Sequence[Trace], pack: bool, pad_token_id: int) -> dict[str, Any]:
    """One micro-batch as model inputs, and the positions of its scored tokens.

    With `pack` one row of complete traces, `(1, T)`, otherwise one right-padded row per trace, `(n, T)`.

    Returns:
        `model_inputs`: input_ids, with position_ids and cumulative lengths (packed) or an attention mask (padded).
        `positions`: where the scored tokens are predicted, in the flattened `(rows * T)` hidden states. `(S,)`
        `targets`: the scored tokens. `(S,)`
        `segments`: the trace of the micro-batch that each scored token belongs to. `(S,)`
    """
    lengths = [len(trace.token_ids) for trace in traces]
    longest = max(lengths)
    starts = [sum(lengths[:i]) if pack else i * longest for i in range(len(traces))]
    positions, targets = [], []
    for trace, start, length in zip(traces, starts, lengths, strict=True):
        # token t is predicted at t - 1
        positions.append(torch.arange(start + trace.num_prompt - 1, start + length - 1))
        targets.append(torch.tensor(trace.token_ids[trace.num_prompt :]))
    segments = torch.repeat_interleave(torch.arange(len(traces)), torch.tensor([len(x) for x in targets]))
    ids = [torch.tensor(trace.token_ids) for trace in traces]
    if pack:
        boundaries = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        model_inputs = {
            "input_ids": torch.cat(ids)[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "cu_seq_lens_q": boundaries,
            "cu_seq_lens_k": boundaries,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    else:
        input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_token_id)
        mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]  # from lengths, since pad may equal eos
        model_inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    return {
        "model_inputs": model_inputs,
        "positions": torch.cat(positions),
        "targets": torch.cat(targets),
        "segments": segments,
    }


@dataclass(eq=False)
class StepDataset(torch.utils.data.Dataset):
    """Item k is this rank's share of step k of the epoch: a list of micro-batches.

    The problems are shuffled by seed and epoch, then cut into global batches. The global batches and their order
    therefore do not depend on the number of ranks. The last one of an epoch may be smaller.

    The loss is the sum of coefficient * log p(y|x) over all traces (`redi.engine.logprobs.token_terms` over tokens).

    Args: see `plan_step` and `traces_of`; `problems` has the columns that `traces_of` reads.

    Raises:
        ValueError: a trace is longer than `max_tokens`, or a positive has nothing to score.
    """

    problems: Dataset
    _: KW_ONLY
    global_batch_size: int
    num_micro_batches: int
    max_tokens: int | None
    max_length: int | None
    alpha: float
    cost: Callable[[int], float]
    rank: int
    num_ranks: int
    pack: bool
    pad_token_id: int
    seed: int
    chosen_weight: float = 1.0
    keeps_negatives: bool = False  # also at `alpha` 0, for their metrics

    def __post_init__(self):
        self.num_scored: list[int] | None = None  # of each positive
        self.alpha_of_traces = 1.0 if self.keeps_negatives else self.alpha
        if "input_ids" in self.problems.column_names:
            self.lengths, self.num_scored = positive_lengths(self.problems, self.max_length)
        else:
            self.lengths = trace_lengths(self.problems, self.max_length, self.alpha_of_traces)
        longest = max((length for row in self.lengths for length in row), default=0)
        plan_step([longest], self.cost, 1, 1, self.max_tokens)  # refused now, not in its step
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffles the problems for an epoch. Call it before iterating over the epoch."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        self.order = torch.randperm(len(self.problems), generator=generator).tolist()

    def __len__(self) -> int:
        return -(-len(self.problems) // self.global_batch_size)

    def rows(self, step: int) -> list[int]:
        """The dataset rows of the step's global batch."""
        return self.order[step * self.global_batch_size : (step + 1) * self.global_batch_size]

    def describe(self) -> str:
        """Three lines about the steps of an epoch."""
        count = f"{self.num_micro_batches}"
        if self.max_tokens is not None:
            count += f" or more, of at most {self.max_tokens:,} tokens"
        return (
            f"{len(self.problems):,} problems in global batches of {self.global_batch_size}: {len(self):,} steps per "
            f"epoch\nranks: {self.num_ranks}; micro-batches per rank and step: {count}\n"
            f"balance over ranks: {self.balance():.2f} of the ideal"
        )

    def balance(self, num_steps: int = 20) -> float:
        """Ideal over planned time of the first steps, where ranks wait for each other at every micro-batch; low if the
        global batch is too small for the ranks, because a step takes as long as its longest trace."""
        ideal = planned = 0.0
        for step in range(min(num_steps, len(self))):
            costs = [self.cost(length) for row in self.rows(step) for length in self.lengths[row]]
            loads = [[sum(costs[i] for i in batch) for batch in rank] for rank in self._plan_of_all_ranks(step)]
            ideal += sum(costs) / self.num_ranks
            planned += sum(max(round_loads) for round_loads in zip(*loads, strict=True))
        return ideal / planned if planned else 1.0

    def _plan_of_all_ranks(self, step: int) -> list[list[list[int]]]:
        lengths = [length for row in self.rows(step) for length in self.lengths[row]]
        return plan_step(lengths, self.cost, self.num_ranks, self.num_micro_batches, self.max_tokens)

    def plan(self, step: int) -> list[list[tuple[int, int]]]:
        """This rank's micro-batches of a step. A trace is given as (its problem's position, its number there)."""
        rows = enumerate(self.rows(step))
        places = [(position, number) for position, row in rows for number in range(len(self.lengths[row]))]
        return [[places[i] for i in indices] for indices in self._plan_of_all_ranks(step)[self.rank]]

    def largest(self) -> dict[str, Any]:
        """This rank's micro-batch with the most tokens in the epoch, found from lengths alone."""
        best = (-1, 0, 0)
        for step in range(len(self)):
            rows = self.rows(step)
            for index, places in enumerate(self.plan(step)):
                sizes = [self.lengths[rows[position]][number] for position, number in places]
                tokens = sum(sizes) if self.pack else len(sizes) * max(sizes, default=0)
                best = max(best, (tokens, step, index))
        return self[best[1]][best[2]]

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        rows, plan = self.rows(step), self.plan(step)
        positions = sorted({position for places in plan for position, _ in places})  # the others are other ranks'
        problems = zip(positions, self.problems.select([rows[position] for position in positions]), strict=True)
        traces = {i: traces_of(problem, i, self.max_length, self.alpha_of_traces) for i, problem in problems}
        return [self._micro_batch([traces[position][number] for position, number in places], rows) for places in plan]

    def _micro_batch(self, traces: list[Trace], rows: list[int]) -> dict[str, Any]:
        if not traces:  # every rank must run equally many micro-batches, so this one has two tokens of weight 0
            traces = [Trace([self.pad_token_id] * 2, 1, 0.0, True, 0)]
        batch = collate(traces, self.pack, self.pad_token_id)
        sides = torch.tensor([-self.chosen_weight if trace.is_chosen else self.alpha for trace in traces])
        shares = torch.tensor([trace.share for trace in traces])
        scored = torch.tensor([trace.num_scored for trace in traces])
        # Eq. (5): d loss / d (sum of the trace's log-probabilities) = -1/|y_w| or +alpha/|y_l|, averaged over the
        # problems of the global batch. SFT: -1 / all scored tokens of the global batch.
        denominators = scored * len(rows) if self.num_scored is None else sum(self.num_scored[row] for row in rows)
        return {
            **batch,
            "num_problems": len(rows),
            "rows": rows,
            "coefficients": sides * shares / denominators,
            "is_chosen": torch.tensor([trace.is_chosen for trace in traces]),
            "shares": shares,
            "num_scored": scored,
            "problems": torch.tensor([trace.problem for trace in traces]),
        }


def trace_lengths(problems: Dataset, max_length: int | None, alpha: float) -> list[list[int]]:
    """Lengths of the traces of each problem as `traces_of` makes them, without reading their tokens."""
    limit = math.inf if max_length is None else max_length
    all_labels = problems["labels"] if "labels" in problems.column_names else repeat([True, False])
    return [
        [min(prompt + n, limit) for n, label in zip(completions, labels, strict=True) if label or alpha > 0]
        for (prompt, completions), labels in zip(lengths_of(problems), all_labels, strict=False)
    ]


def positive_lengths(positives: Dataset, max_length: int | None) -> tuple[list[list[int]], list[int]]:
    """The same for positives, and their scored tokens; a `ValueError` if one has none."""
    counts = list(lengths_of(positives))
    lengths = [min(prompt + n, max_length or prompt + n) for prompt, (n,) in counts]
    num_scored = [length - prompt for length, (prompt, _) in zip(lengths, counts, strict=True)]
    if (least := min(num_scored, default=1)) < 1:
        raise ValueError(f"row {num_scored.index(least)} has no scored token within max_length={max_length}")
    return [[length] for length in lengths], num_scored
