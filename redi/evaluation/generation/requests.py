"""What a back end is given: a model, prompts with a key of everything that decides their samples, and requests.

A sample on disk is used again only if its key is that of the prompt that is asked now.
"""

import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, GenerationConfig

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.generation.options import SamplingOptions
from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import fingerprint, is_hub_id, reach_hub
from redi.runs.model_folder import check_weights, open_tokenizer, refuse_unfinished
from redi.text.prompts import make_prompt, read_chat_template, stop_token_ids, template_hash, user_turn

MAX_BATCH_SIZE = 256
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class Sample:
    """One answer: `response` lacks the stop token, `num_tokens` counts it; `finish_reason` is "stop" or "length"."""

    response: str
    finish_reason: str
    num_tokens: int


@dataclass(frozen=True)
class SamplingModel:
    """Where a model is, its tokenizer, and what limits its answers. Of a server's model, only the path is known."""

    path: str  # a folder, or a server's name
    identity: str  # the hash of the folder's files, `hub:<id>@<commit>`, or `served:<name>`
    tokenizer: Any = None
    config: Any = None
    stop_token_ids: tuple[int, ...] = ()
    template_sha256: str | None = None

    @property
    def max_positions(self) -> int | None:
        """Most tokens of prompt and answer together; None if unknown."""
        return self.config and self.config.get_text_config().max_position_embeddings

    def room(self, num_prompt_tokens: int, max_tokens: int) -> int:
        """Most new tokens of an answer: `max_tokens`, or what the positions leave."""
        if self.max_positions is None:
            return max_tokens
        return min(max_tokens, self.max_positions - num_prompt_tokens)

    @staticmethod
    def default_dtype() -> str:
        return "bfloat16" if torch.cuda.is_available() else "float32"

    def default_batch_size(self, max_tokens: int, dtype: str) -> int:
        """The largest power of two, up to 256, whose key-value cache fits 40 % of the GPU, or 4 GiB on a CPU."""
        text = self.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        bytes_per_token = 2 * text.num_hidden_layers * heads * head_dim * getattr(torch, dtype).itemsize
        gpu = torch.cuda.is_available()
        budget = 0.4 * torch.cuda.get_device_properties(0).total_memory if gpu else 4 << 30
        fits = int(budget // (bytes_per_token * min(max_tokens, self.max_positions)))
        return min(MAX_BATCH_SIZE, 1 << max(0, fits.bit_length() - 1))

    def decode(self, answers: list[list[int]]) -> list[Sample]:
        """Answers as text, without the stop token. Other special tokens are kept, since `</think>` may be one."""
        stopped = [bool(tokens) and tokens[-1] in self.stop_token_ids for tokens in answers]
        texts = self.tokenizer.batch_decode(
            [tokens[:-1] if stop else tokens for tokens, stop in zip(answers, stopped, strict=True)],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return [
            Sample(text, "stop" if stop else "length", len(tokens))
            for text, stop, tokens in zip(texts, stopped, answers, strict=True)
        ]


def load_model(
    model: str, revision: str | None = None, chat_template: str | None = None, weights: bool = True
) -> SamplingModel:
    """Loads a model's configuration and tokenizer, and checks that its weights are complete.

    A Hub id is downloaded to the Hub's cache, without weights if they are not needed here. `chat_template` replaces
    the tokenizer's own. Refuses a model that does not exist, lacks weights or a chat template, or is cut off.
    """
    folder, identity = _locate(model, revision, weights)
    refuse_unfinished(folder, f"--model {model}")
    is_model = (folder / "config.json").is_file()
    if not is_model and (folder / "adapter_config.json").is_file():
        raise UsageError(f"--model {model} is a LoRA adapter; merge it into its base model and name the result")
    if not is_model:
        raise UsageError(f"--model {model} is not a model: it has no config.json")
    with usage_errors(lambda error: f"--model {model} cannot be loaded: {_first_line(error)}", OSError, ValueError):
        config = AutoConfig.from_pretrained(folder)
    tokenizer = open_tokenizer(folder, f"--model {model}")
    if weights:
        check_weights(folder, f"--model {model}")
    if chat_template is not None:
        tokenizer.chat_template = read_chat_template(chat_template)
    template_sha256 = template_hash(tokenizer)  # refuses a tokenizer without a template
    has_own = (folder / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(folder) if has_own else GenerationConfig.from_model_config(config)
    stops = tuple(stop_token_ids(tokenizer, generation))
    return SamplingModel(str(folder), identity, tokenizer, config, stops, template_sha256)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _locate(model: str, revision: str | None, weights: bool) -> tuple[Path, str]:
    """The folder of a model, and its identity."""
    if Path(model).is_dir():
        if revision is not None:
            raise UsageError(f"--revision {revision} is for a Hub id; {model} is a folder")
        return Path(model), fingerprint(model)
    if not is_hub_id(model):
        raise UsageError(f"--model {model} is not a folder, and not a Hub id")
    reach_hub(model, f"--model {model}")
    files = [*_TOKENIZER_FILES, "*.safetensors"] if weights else _TOKENIZER_FILES
    what = f"--model {model} is not a folder, and the Hub refused it"
    with usage_errors(lambda error: f"{what}: {_first_line(error)}", OSError, ValueError):  # Hub errors are OSErrors
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=files))
    return folder, f"hub:{model}@{folder.name}"  # a snapshot's folder is named after its commit


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
