"""Adds the token lengths of pairs as columns, and drops the pairs that exceed a limit."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.lengths.length_rules import prompt_lengths, response_lengths, response_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"
# https://huggingface.co/papers/2505.24850: 800 + 19,000 tokens are what stage 2 trains on without truncation.
MAX_PROMPT_TOKENS = 800
MAX_RESPONSE_TOKENS = 19000


def filter_by_length(
    pairs: pa.Table, tokenizer: "PreTrainedTokenizerBase", rule: str, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, Counter[str]]:
    """Adds `prompt_len`, `chosen_len` and `rejected_len`, and drops the pairs that exceed a limit.

    Args:
        pairs: as `redi.data.selection.select_pairs` makes them.
        tokenizer: from `load_counting_tokenizer`, for the same rule.
        rule: of `LENGTH_RULES`. By "paper", a pair whose two responses are the same text has the response length 1.
        max_prompt_tokens: the longest prompt kept.
        max_response_tokens: the longest response kept, chosen and rejected alike.

    Returns:
        The remaining pairs, and the number dropped for each reason; a pair too long in both is counted by its prompt.
    """
    prompt_len = prompt_lengths(tokenizer, rule, pairs["prompt"].to_pylist())
    fits = prompt_len <= max_prompt_tokens
    drops = Counter({PROMPT_TOO_LONG: int((~fits).sum())})
    pairs = pairs.filter(pa.array(fits)).append_column("prompt_len", pa.array(prompt_len[fits]))

    chosen, rejected = response_texts(pairs["chosen"]), response_texts(pairs["rejected"])
    differ = pc.not_equal(chosen, rejected).to_numpy() | (rule == "exact")
    fits = np.ones(len(pairs), dtype=bool)
    for name, texts in (("chosen_len", chosen), ("rejected_len", rejected)):
        # If the chosen response is too long, the pair is dropped whatever the length of the rejected one.
        counted = fits & differ
        texts_counted = (column.filter(pa.array(counted)).to_pylist() for column in (pairs["prompt"], texts))
        length = np.ones(len(pairs), dtype=np.int64)
        length[counted] = response_lengths(tokenizer, rule, *texts_counted)
        pairs = pairs.append_column(name, pa.array(length))
        fits &= length <= max_response_tokens
    drops[RESPONSE_TOO_LONG] = int((~fits).sum())
    return pairs.filter(pa.array(fits)), drops
