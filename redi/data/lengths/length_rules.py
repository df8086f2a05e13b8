"""Counts the tokens of prompts and responses, by the paper's rule or as training sees them; filters pairs by them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.data.streams import chunks
from redi.runs.errors import UsageError, usage_errors
from redi.text.encoding import Message, Tokenizer, apply_template, render

# "paper": each turn alone through the chat template, plus 1, unless both responses are the same text (`row_lengths`).
# The paper's 53,175 pairs depend on this count. "exact": what training sees, `redi.text.encoding.encode`.
LENGTH_RULES = ("paper", "exact")
# https://huggingface.co/papers/2505.24850: 800 + 19,000 tokens are what stage 2 trains on without truncation.
MAX_PROMPT_TOKENS = 800
MAX_RESPONSE_TOKENS = 19000
DEFAULT_LIMITS = {"length_rule": "paper", "max_prompt_tokens": MAX_PROMPT_TOKENS}
DEFAULT_LIMITS |= {"max_response_tokens": MAX_RESPONSE_TOKENS}

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"
SAME_TOO_LONG = "same responses, too long"  # by "paper", two responses of the same text count with their prompt

# Characters encoded at a time. An encoding takes about 100 bytes a token until its length is read.
BATCH_CHARACTERS = 1_000_000

Columns = dict[str, np.ndarray]


def counting_options(tokenizer: str | None, **given: Any) -> dict[str, Any]:
    """The given options, with the defaults of `DEFAULT_LIMITS` for None; without a tokenizer, none may be given."""
    if tokenizer is not None:
        return {name: DEFAULT_LIMITS[name] if value is None else value for name, value in given.items()}
    for option in (f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None):
        raise UsageError(f"{option} needs a tokenizer to count with; pass --tokenizer with the base model")
    return {}


def load_counting_tokenizer(path: str, rule: str = "paper") -> Tokenizer:
    """A tokenizer whose chat template can render what the length rule counts; a `UsageError` for any other."""
    from redi.runs.model_folder import open_tokenizer  # imports transformers, which takes seconds

    tokenizer = open_tokenizer(path, f"--tokenizer {path}")
    if tokenizer.chat_template is None:
        raise UsageError(f"--tokenizer {path} has no chat template; use the tokenizer of the model to be trained")
    if rule == "exact":
        if tokenizer.eos_token_id is None:
            raise UsageError(f"--tokenizer {path} has no eos token, which training appends to every response; set one")
        list(_completions(tokenizer, ["probe"], ["probe"]))
        return tokenizer
    remedy = "lengths are counted on such conversations, so use a tokenizer whose chat template allows them"
    for role in ("user", "assistant"):
        where = f"--tokenizer {path}: a conversation of one {role} turn"
        with usage_errors(lambda error, where=where: f"{where}: {error}; {remedy}", ValueError):
            rendered = apply_template(tokenizer, [_message(role, "probe")])
        if "probe" not in rendered:
            raise UsageError(f"{where} is rendered without its text: {rendered!r}; {remedy}")
    return tokenizer


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _completions(tokenizer: Tokenizer, prompts: Iterable[str], responses: Iterable[str]) -> Iterator[str]:
    """What training tokenises of each response."""
    where = f"--tokenizer {tokenizer.name_or_path}"
    with usage_errors(lambda error: f"{where} cannot render the conversation: {error}", ValueError):
        for prompt, response in zip(prompts, responses, strict=True):
            yield render(tokenizer, [_message("user", prompt)], [_message("assistant", response)])[1]


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """The number of tokens of each text, int64 `(texts,)`, without special tokens added around it."""
    batches = chunks(texts, len, BATCH_CHARACTERS)
    return np.array([length for batch in batches for length in _count(tokenizer, batch)], dtype=np.int64)


def _count(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
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
    name = "TOKENIZERS_PARALLELISM"
    before, os.environ[name] = os.environ.get(name), "true"
    try:
        yield
    finally:
        del os.environ[name]
        os.environ |= {} if before is None else {name: before}


def turn_lengths(tokenizer: Tokenizer, role: str, texts: Iterable[str]) -> np.ndarray:
    """The length of each text as the only turn of a conversation, int64: its tokens through the chat template, plus 1.

    A system block that the template adds by default counts. The 1 is for the eos token that training appends.
    """
    return count_tokens(tokenizer, (apply_template(tokenizer, [_message(role, text)]) for text in texts)) + 1


def row_lengths(
    tokenizer: Tokenizer, rule: str, prompts: list[str], responses: Mapping[str, list[str]]
) -> tuple[Columns, np.ndarray]:
    """The lengths of prompts and responses (name -> texts: one of positives, two of pairs), int64 `(rows,)` each.

    "paper": `turn_lengths`. The original finds the prompt of a pair as the common start of both conversations. If the
    responses are the same text, that is the complete conversation: its tokens, without the 1, are the prompt's length,
    and both responses have the length 1. For which rows that is so is returned too.

    "exact": a prompt ends with the header of the assistant's turn, and a response with its end of turn and the eos
    token. A response without text, or of white space, has the length 0: training drops it.
    """
    first, *others = responses.values()
    if rule == "exact":
        users = ([_message("user", prompt)] for prompt in prompts)
        headed = (apply_template(tokenizer, user, add_generation_prompt=True) for user in users)
        lengths = {"prompt": count_tokens(tokenizer, headed)}
        for name, texts in responses.items():
            found = count_tokens(tokenizer, _completions(tokenizer, prompts, texts)) + 1
            lengths[name] = np.where([bool(text.strip()) for text in texts], found, 0)
        return lengths, np.zeros(len(prompts), dtype=bool)
    lengths = {"prompt": turn_lengths(tokenizer, "user", prompts)}
    lengths |= {name: turn_lengths(tokenizer, "assistant", texts) for name, texts in responses.items()}
    same = np.array([text in twins for text, *twins in zip(first, *others, strict=True)], dtype=bool)
    whole = ([_message("user", prompts[i]), _message("assistant", first[i])] for i in np.flatnonzero(same))
    lengths["prompt"][same] = count_tokens(tokenizer, (apply_template(tokenizer, turns) for turns in whole))
    for name in responses:
        lengths[name][same] = 1
    return lengths, same


def response_texts(conversations: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The text of the assistant turn, the second and last, of each conversation."""
    return pc.struct_field(pc.list_element(conversations, 1), "content")


def filter_by_length(
    pairs: pa.Table, tokenizer: Tokenizer, length_rule: str, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, Counter[str]]:
    """Adds `prompt_len`, `chosen_len` and `rejected_len` (`row_lengths`), and drops the pairs that exceed a limit.

    The limits are inclusive, and that on responses holds for chosen and rejected alike. Returns the remaining pairs,
    and the number dropped for each reason; a pair too long in both is counted by its prompt.
    """
    responses = {name: response_texts(pairs[name]).to_pylist() for name in ("chosen", "rejected")}
    lengths, same = row_lengths(tokenizer, length_rule, pairs["prompt"].to_pylist(), responses)
    for name, length in lengths.items():
        pairs = pairs.append_column(f"{name}_len", pa.array(length))
    long_prompt = lengths["prompt"] > max_prompt_tokens
    long_response = np.maximum(lengths["chosen"], lengths["rejected"]) > max_response_tokens
    drops = Counter({PROMPT_TOO_LONG: int((long_prompt & ~same).sum())})
    if length_rule == "paper":
        drops[SAME_TOO_LONG] = int((long_prompt & same).sum())
    drops[RESPONSE_TOO_LONG] = int((long_response & ~long_prompt).sum())
    return pairs.filter(pa.array(~(long_prompt | long_response))), drops
