"""What is to be sampled: every sample has a key made of all that decides it, so that old text is used again or not."""

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redi.evaluation.benchmarks import Benchmark
from redi.runs.errors import UsageError
from redi.text.prompts import make_prompt, user_turn

if TYPE_CHECKING:
    from redi.evaluation.generation.model import Checkpoint


@dataclass(frozen=True)
class Request:
    """One problem, to be sampled n times.

    Attributes:
        benchmark: the benchmark's name.
        id: the problem's.
        prompt: as the model reads it; the user's message alone where a server renders the prompt.
        token_ids: of the prompt; empty where a server renders it.
        max_tokens: most new tokens.
        key: hash of what decides the samples: model, prompt, sampling parameters, engine and seed.
    """

    benchmark: str
    id: str | int
    prompt: str
    token_ids: tuple[int, ...]
    max_tokens: int
    key: str


@dataclass(frozen=True)
class Sample:
    """One answer: `response` lacks the stop token, `num_tokens` counts it; `finish_reason` is "stop" or "length"."""

    response: str
    finish_reason: str
    num_tokens: int


Slot = tuple[Request, int]  # a request and its sample index


@dataclass(frozen=True)
class Settings:
    """How answers are sampled. None stands for a default, or for an option that the back end does not have."""

    backend: str
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    prompt: str
    force_think: str = "none"
    chat_template: str | None = None
    revision: str | None = None
    seed: int | None = None
    dtype: str | None = None
    batch_size: int | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    base_url: str | None = None
    served_model_name: str | None = None
    api: str | None = None
    concurrency: int | None = None

    def __post_init__(self):
        for name in ("n", "max_tokens", "batch_size", "tensor_parallel_size", "data_parallel_size", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_option(name)} {value} must be at least 1")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} must be at least 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} must be above 0 and at most 1")
        for name, backends in BACKEND_OPTIONS.items():
            if getattr(self, name) is not None and self.backend not in backends:
                raise UsageError(f"{_option(name)} is for --backend {' or '.join(backends)}")
        if self.api == "chat":
            for name in ("force_think", "chat_template", "revision"):
                if getattr(self, name) not in (None, "none"):
                    raise UsageError(
                        f"{_option(name)} {getattr(self, name)} cannot be used with --api chat, where the server "
                        "renders the prompt; use --api completions"
                    )


BACKEND_OPTIONS = {
    "dtype": ("vllm", "transformers"),
    "batch_size": ("transformers",),
    "tensor_parallel_size": ("vllm",),
    "data_parallel_size": ("vllm",),
    "base_url": ("openai",),
    "served_model_name": ("openai",),
    "api": ("openai",),
    "concurrency": ("openai",),
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def make_requests(
    benchmarks: list[Benchmark], checkpoint: "Checkpoint", settings: Settings, run: dict[str, Any]
) -> list[Request]:
    """Renders and encodes the prompt of every problem, the longest first: memory runs out early.

    Args:
        benchmarks: whose problems are asked.
        checkpoint: whose tokenizer renders; without one the prompts are the users' messages.
        settings: how to sample.
        run: what decides the samples besides prompt and length: part of every request's key.

    Raises:
        UsageError: a prompt is as long as the model's positions.
    """
    requests = []
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            if checkpoint.tokenizer is None:
                prompt, token_ids = user_turn(problem.problem, settings.prompt), []
            else:
                prompt, token_ids = make_prompt(
                    checkpoint.tokenizer, problem.problem, settings.prompt, settings.force_think
                )
            max_tokens = checkpoint.room(len(token_ids), settings.max_tokens)
            if max_tokens < 1:
                raise UsageError(
                    f"{benchmark.name} '{problem.id}': its prompt of {len(token_ids)} tokens does not fit the "
                    f"model's {checkpoint.max_positions} positions (max_position_embeddings)"
                )
            content = json.dumps([run, prompt, token_ids, max_tokens])
            key = hashlib.sha256(content.encode()).hexdigest()[:32]
            requests.append(Request(benchmark.name, problem.id, prompt, tuple(token_ids), max_tokens, key))
    if any(request.max_tokens < settings.max_tokens for request in requests):
        print(
            f"note: --max-tokens {settings.max_tokens} is cut to what the model's {checkpoint.max_positions} "
            f"positions leave after a prompt (the longest has {max(len(r.token_ids) for r in requests)} tokens)",
            file=sys.stderr,
        )
    return sorted(requests, key=lambda request: -len(request.token_ids))


def make_slots(requests: list[Request], n: int) -> list[Slot]:
    """All samples of all requests: the first of each, then the second, so that a larger n only appends."""
    return [(request, index) for index in range(n) for request in requests]


def by_request(slots: list[Slot]) -> list[tuple[Slot, ...]]:
    """The slots of each problem together, in the order of the problems."""
    batches: dict[tuple[str, str | int], list[Slot]] = {}
    for slot in slots:
        batches.setdefault((slot[0].benchmark, slot[0].id), []).append(slot)
    return [tuple(batch) for batch in batches.values()]


def gpu_groups(devices: list[str], data_parallel_size: int, tensor_parallel_size: int) -> list[str]:
    """Which GPUs each data parallel engine gets, as CUDA_VISIBLE_DEVICES; empty texts where there are none at all.

    Raises:
        UsageError: there are GPUs, but fewer than needed.
    """
    wanted = data_parallel_size * tensor_parallel_size
    if 0 < len(devices) < wanted:
        raise UsageError(
            f"--data-parallel-size {data_parallel_size} x --tensor-parallel-size {tensor_parallel_size} needs "
            f"{wanted} GPUs, and {len(devices)} are visible"
        )
    return [
        ",".join(devices[first : first + tensor_parallel_size]) for first in range(0, wanted, tensor_parallel_size)
    ]


def slots_seed(slots: list[Slot]) -> int:
    """A seed of 63 bits from what is to be sampled: the keys, which hold the run's seed, and the indices."""
    content = json.dumps([[request.key, index] for request, index in slots])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1


def parse_shard(text: str) -> tuple[int, int]:
    """`"2/4"` as (2, 4).

    Raises:
        UsageError: it is not `i/n` with 1 <= i <= n.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text} must be i/n with i from 1 to n, such as 1/4")
    return int(index), int(count)
