"""What generation knows of a model before its weights are loaded: tokenizer, stop tokens, room for an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, GenerationConfig

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import fingerprint, is_hub_id
from redi.runs.model_folder import check_weights, open_tokenizer
from redi.text.prompts import read_chat_template, stop_token_ids, template_hash

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
    files = [*_TOKENIZER_FILES, "*.safetensors"] if weights else _TOKENIZER_FILES
    what = f"--model {model} is not a folder, and the Hub refused it"
    with usage_errors(lambda error: f"{what}: {_first_line(error)}", OSError, ValueError):  # Hub errors are OSErrors
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=files))
    return folder, f"hub:{model}@{folder.name}"  # a snapshot's folder is named after its commit
