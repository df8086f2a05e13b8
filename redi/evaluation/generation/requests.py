"""What is sampled: prompts, each with a key of everything that decides its samples, and requests for samples of them.

A sample on disk is used again only if its key is that of the prompt that is asked now.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from redi.evaluation.benchmarks import Benchmark, Problem
from redi.evaluation.generation.options import SamplingOptions
from redi.runs.errors import UsageError
from redi.text.prompts import make_prompt, user_turn

if TYPE_CHECKING:
    from redi.evaluation.generation.model import SamplingModel


@dataclass(frozen=True)
class Prompt:
    """The prompt of one problem; its key is a hash of what decides the samples: model, prompt, parameters, seed."""

    benchmark: str
    id: str | int
    text: str  # as the model reads it; the user's message alone if a server renders the prompt
    token_ids: tuple[int, ...]  # empty if a server renders the prompt
    max_tokens: int
    key: str


class Request(NamedTuple):
    """One sample of a prompt, to be drawn."""

    prompt: Prompt
    sample_idx: int


@dataclass(frozen=True)
class Sample:
    """One answer: `response` lacks the stop token, `num_tokens` counts it; `finish_reason` is "stop" or "length"."""

    response: str
    finish_reason: str
    num_tokens: int


def make_prompts(
    benchmarks: list[Benchmark], model: "SamplingModel", options: SamplingOptions, run: dict[str, Any]
) -> list[Prompt]:
    """Renders and encodes the prompt of every problem, the longest first: memory runs out early.

    Without a tokenizer, the prompts are the users' messages. `run` is what decides the samples besides prompt and
    length; it is part of every key.

    Raises:
        UsageError: a prompt does not fit the model's positions.
    """
    prompts = [
        _make_prompt(benchmark.name, problem, model, options, run)
        for benchmark in benchmarks
        for problem in benchmark.problems
    ]
    if any(prompt.max_tokens < options.max_tokens for prompt in prompts):
        print(
            f"note: --max-tokens {options.max_tokens} is cut to what the model's {model.max_positions} positions "
            f"leave after a prompt (the longest has {max(len(prompt.token_ids) for prompt in prompts)} tokens)",
            file=sys.stderr,
        )
    return sorted(prompts, key=lambda prompt: -len(prompt.token_ids))


def _make_prompt(
    benchmark: str, problem: Problem, model: "SamplingModel", options: SamplingOptions, run: dict[str, Any]
) -> Prompt:
    if model.tokenizer is None:
        text, token_ids = user_turn(problem.problem, options.prompt), []
    else:
        text, token_ids = make_prompt(model.tokenizer, problem.problem, options.prompt, options.force_think)
    max_tokens = model.room(len(token_ids), options.max_tokens)
    if max_tokens < 1:
        raise UsageError(
            f"{benchmark} '{problem.id}': its prompt of {len(token_ids)} tokens does not fit the model's "
            f"{model.max_positions} positions (max_position_embeddings)"
        )
    key = hashlib.sha256(json.dumps([run, text, token_ids, max_tokens]).encode()).hexdigest()[:32]
    return Prompt(benchmark, problem.id, text, tuple(token_ids), max_tokens, key)


def make_requests(prompts: list[Prompt], n: int) -> list[Request]:
    """n samples of every prompt: the first of each, then the second, so that a larger n only appends."""
    return [Request(prompt, index) for index in range(n) for prompt in prompts]


def group_by_prompt(requests: list[Request]) -> list[list[Request]]:
    """The requests of each prompt together, in the order of the prompts."""
    groups: dict[tuple[str, str | int], list[Request]] = {}
    for request in requests:
        groups.setdefault((request.prompt.benchmark, request.prompt.id), []).append(request)
    return list(groups.values())


def seed_of(requests: list[Request]) -> int:
    """A seed of 63 bits from what is sampled: the keys, which hold the run's seed, and the sample indices."""
    content = json.dumps([[request.prompt.key, request.sample_idx] for request in requests])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
