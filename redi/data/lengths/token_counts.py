"""Counts the tokens of texts with the tokenizer itself, many texts at a time on all cores."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from redi.data.streams import chunks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters encoded at a time. An encoding takes about 100 bytes a token until its length is read.
BATCH_CHARACTERS = 1_000_000


def count_tokens(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> np.ndarray:
    """The number of tokens of each text, int64 `(texts,)`, without special tokens added around it.

    Special tokens inside a text count as the tokenizer splits them, which is what a chat template's own need.
    """
    batches = chunks(texts, len, BATCH_CHARACTERS)
    return np.array([length for batch in batches for length in _count(tokenizer, batch)], dtype=np.int64)


def _count(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[int]:
    if not tokenizer.is_fast:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    with _all_cores():
        return [len(encoding) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@contextmanager
def _all_cores() -> Iterator[None]:
    """Lets `tokenizers` use a thread for each core of this job, or RAYON_NUM_THREADS of them."""
    # TOKENIZERS_PARALLELISM=false protects processes that fork. None is forked in here; later some may be.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
