"""Adds the token lengths of pairs as columns, and drops the pairs that exceed a limit."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from redi.data.lengths.length_rules import pair_lengths, response_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"
SAME_TOO_LONG = "same responses, too long"  # by "paper", two responses of the same text count with their prompt
# https://huggingface.co/papers/2505.24850: 800 + 19,000 tokens are what stage 2 trains on without truncation.
MAX_PROMPT_TOKENS = 800
MAX_RESPONSE_TOKENS = 19000


def filter_by_length(
    pairs: pa.Table, tokenizer: "PreTrainedTokenizerBase", rule: str, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, Counter[str]]:
    """Adds `prompt_len`, `chosen_len` and `rejected_len` (`pair_lengths`), and drops the pairs that exceed a limit.

    Args:
        pairs: as `redi.data.selection.select_pairs` makes them.
        tokenizer: from `load_counting_tokenizer`, for the same rule.
        rule: of `LENGTH_RULES`.
        max_prompt_tokens: the longest prompt kept.
        max_response_tokens: the longest response kept, chosen and rejected alike.

    Returns:
        The remaining pairs, and the number dropped for each reason; a pair too long in both is counted by its prompt.
    """
    prompts = pairs["prompt"].to_pylist()
    chosen, rejected = (response_texts(pairs[name]).to_pylist() for name in ("chosen", "rejected"))
    lengths, same = pair_lengths(tokenizer, rule, prompts, chosen, rejected)
    for name, length in lengths.items():
        pairs = pairs.append_column(f"{name}_len", pa.array(length))
    long_prompt = lengths["prompt"] > max_prompt_tokens
    long_response = np.maximum(lengths["chosen"], lengths["rejected"]) > max_response_tokens
    drops = Counter({PROMPT_TOO_LONG: int((long_prompt & ~same).sum())})
    if rule == "paper":
        drops[SAME_TOO_LONG] = int((long_prompt & same).sum())
    drops[RESPONSE_TOO_LONG] = int((long_response & ~long_prompt).sum())
    return pairs.filter(pa.array(~(long_prompt | long_response))), drops
