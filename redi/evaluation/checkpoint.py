"""A model as generation needs to know it before its weights are loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from redi.evaluation.plan import Sample
from redi.evaluation.prompts import stop_token_ids, template_hash
from redi.runs import UsageError

MAX_BATCH_SIZE = 256
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is, its tokenizer, and what limits its answers."""

    path: str
    tokenizer: Any
    config: Any
    stop_token_ids: tuple[int, ...]
    template_sha256: str

    @property
    def max_positions(self) -> int:
        """Tokens that fit prompt and answer together."""
        return self.config.get_text_config().max_position_embeddings

    @staticmethod
    def default_dtype() -> str:
        return "bfloat16" if torch.cuda.is_available() else "float32"

    def default_batch_size(self, max_tokens: int, dtype: str) -> int:
        """The largest power of two, up to 256, whose key-value cache fits 40 % of the GPU, or 4 GiB without one."""
        text = self.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        bytes_per_token = 2 * text.num_hidden_layers * heads * head_dim * getattr(torch, dtype).itemsize
        gpu = torch.cuda.is_available()
        budget = 0.4 * torch.cuda.get_device_properties(0).total_memory if gpu else 4 << 30
        fits = int(budget // (bytes_per_token * min(max_tokens, self.max_positions)))
        return min(MAX_BATCH_SIZE, 1 << max(0, fits.bit_length() - 1))

    def decode(self, answers: list[list[int]]) -> list[Sample]:
        """Answers as text, without the stop token. Other special tokens stay in it, for `</think>` may be one."""
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


def load_checkpoint(path: str) -> Checkpoint:
    """Loads a model's configuration and tokenizer.

    Raises:
        UsageError: there is no such model, or it has no chat template.
    """
    if not Path(path).is_dir() and not _HUB_ID.fullmatch(path):
        raise UsageError(f"--model {path}: no such folder, and not a Hub id")
    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {path} cannot be loaded: {str(error).splitlines()[0]}") from error
    return Checkpoint(
        path,
        tokenizer,
        config,
        tuple(stop_token_ids(tokenizer, _generation_config(path, config))),
        template_hash(tokenizer),
    )


def _generation_config(path: str, config) -> GenerationConfig:
    if Path(path).is_dir() and not (Path(path) / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(config)
    return GenerationConfig.from_pretrained(path)
