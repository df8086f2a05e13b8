"""What is to be sampled, and in which batches: all of it follows from the options, so that a run can be resumed."""

import hashlib
import json
import sys
from dataclasses import dataclass

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.prompts import encode_prompt, render_prompt
from redi.runs import UsageError


@dataclass(frozen=True)
class Request:
    """One problem, to be sampled n times."""

    benchmark: str
    id: str | int
    prompt: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """One answer: `response` lacks the stop token, `num_tokens` counts it; `finish_reason` is "stop" or "length"."""

    response: str
    finish_reason: str
    num_tokens: int


Slot = tuple[Request, int]  # a request and its sample index
Batch = tuple[Slot, ...]


@dataclass(frozen=True)
class Settings:
    """How answers are sampled. None stands for a default that depends on the model and the machine."""

    backend: str
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    prompt: str
    seed: int
    dtype: str | None
    batch_size: int | None  # with vLLM always None, for it makes its own batches

    def __post_init__(self):
        for name, valid, rule in (
            ("n", self.n >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1"),
        ):
            if not valid:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} must be {rule}")


def make_requests(benchmarks: list[Benchmark], tokenizer, style: str) -> list[Request]:
    """Renders and encodes the prompt of every problem."""
    requests = []
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            prompt = render_prompt(tokenizer, problem.problem, style)
            requests.append(Request(benchmark.name, problem.id, prompt, tuple(encode_prompt(tokenizer, prompt))))
    return requests


def check_lengths(requests: list[Request], max_tokens: int, max_positions: int) -> None:
    """Refuses a prompt that leaves no room for an answer, and says once where `max_tokens` do not fit.

    Raises:
        UsageError: a prompt is as long as the model's positions.
    """
    longest = max(requests, key=lambda request: len(request.token_ids))
    if len(longest.token_ids) >= max_positions:
        raise UsageError(
            f"{longest.benchmark} '{longest.id}': its prompt of {len(longest.token_ids)} tokens does not fit the "
            f"model's {max_positions} positions (max_position_embeddings)"
        )
    if len(longest.token_ids) + max_tokens > max_positions:
        print(
            f"note: --max-tokens {max_tokens} is cut to what the model's {max_positions} positions leave after a "
            f"prompt (the longest prompt has {len(longest.token_ids)} tokens)",
            file=sys.stderr,
        )


def make_batches(requests: list[Request], n: int, batch_size: int | None) -> list[Batch]:
    """All samples of all requests, prompts of like length together and the longest first: memory runs out early.

    Without a batch size, a batch is all samples of one problem.
    """
    ordered = sorted(requests, key=lambda request: -len(request.token_ids))
    slots = [(request, index) for request in ordered for index in range(n)]
    batch_size = batch_size or n
    return [tuple(slots[start : start + batch_size]) for start in range(0, len(slots), batch_size)]


def batch_seed(seed: int, batch: Batch) -> int:
    """A seed of 63 bits from the run's seed and what the batch holds."""
    content = json.dumps([seed, [[request.benchmark, request.id, index] for request, index in batch]])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
