"""What is sampled: prompts, each with a key of everything that decides its samples, and requests for samples of them.

A sample on disk is used again only if its key is that of the prompt that is asked now.
"""

import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.generation.model import SamplingModel
from redi.evaluation.generation.options import SamplingOptions
from redi.runs.errors import UsageError
from redi.text.prompts import make_prompt, user_turn


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


def make_prompts(
    benchmarks: list[Benchmark], model: SamplingModel, options: SamplingOptions, run: dict[str, Any]
) -> list[Prompt]:
    """Renders and encodes the prompt of every problem, the longest first: memory runs out early.

    Without a tokenizer, the prompts are the users' messages. `run` is what decides the samples besides prompt and
    length; it is part of every key. A prompt that does not fit the model's positions is refused.
    """
    prompts = []
    for name, problem in ((task.name, problem) for task in benchmarks for problem in task.problems):
        if model.tokenizer is None:
            text, token_ids = user_turn(problem.problem, options.prompt), []
        else:
            text, token_ids = make_prompt(model.tokenizer, problem.problem, options.prompt, options.force_think)
        max_tokens = model.room(len(token_ids), options.max_tokens)
        if max_tokens < 1:
            raise UsageError(
                f"{name} '{problem.id}': its prompt of {len(token_ids)} tokens does not fit the model's "
                f"{model.max_positions} positions (max_position_embeddings)"
            )
        key = hashlib.sha256(json.dumps([run, text, token_ids, max_tokens]).encode()).hexdigest()[:32]
        prompts.append(Prompt(name, problem.id, text, tuple(token_ids), max_tokens, key))
    prompts.sort(key=lambda prompt: -len(prompt.token_ids))
    if any(prompt.max_tokens < options.max_tokens for prompt in prompts):
        print(
            f"note: --max-tokens {options.max_tokens} is cut to what the model's {model.max_positions} positions "
            f"leave after a prompt (the longest has {len(prompts[0].token_ids)} tokens)",
            file=sys.stderr,
        )
    return prompts


def make_requests(prompts: list[Prompt], n: int) -> list[Request]:
    """n samples of every prompt: the first of each, then the second, so that a larger n only appends."""
    return [Request(prompt, index) for index in range(n) for prompt in prompts]


def group_by_prompt(requests: list[Request]) -> list[list[Request]]:
    """The requests of each prompt together, in the order of the prompts."""
    groups: dict[Prompt, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.prompt].append(request)
    return list(groups.values())


def seed_of(requests: list[Request]) -> int:
    """A seed of 63 bits from what is sampled: the keys, which hold the run's seed, and the sample indices."""
    content = json.dumps([[request.prompt.key, request.sample_idx] for request in requests])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
