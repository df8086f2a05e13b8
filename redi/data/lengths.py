"""Token lengths of pairs, counted as the original counts them, and the filter on them."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from redi.runs import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"

# Characters tokenised at a time: a token's record takes about 30 times the memory of its text.
BATCH_CHARACTERS = 2_000_000


def load_tokenizer(path: str) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer whose chat template can render each turn of a pair alone, as the length rule needs.

    Raises:
        UsageError: there is no tokenizer at `path`, it has no chat template, or the template refuses a lone turn.
    """
    from transformers import AutoTokenizer  # takes seconds to import, and only the length filter needs it

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--tokenizer {path}: no tokenizer could be loaded from there: {error}") from error
    if tokenizer.chat_template is None:
        raise UsageError(f"--tokenizer {path} has no chat template; use the tokenizer of the model to be trained")
    for role in ("user", "assistant"):
        try:
            rendered = _render(tokenizer, role, ["probe"])[0]
        except (TemplateError, ValueError) as error:
            raise UsageError(_refusal(path, role, f"fails: {error}")) from error
        if "probe" not in rendered:
            raise UsageError(_refusal(path, role, f"leaves its text out: {rendered!r}"))
    return tokenizer


def _refusal(path: str, role: str, what: str) -> str:
    return (
        f"--tokenizer {path}: rendering a conversation of one {role} turn {what}; "
        "lengths are counted on such conversations, so use a tokenizer whose chat template allows them"
    )


def _render(tokenizer: "PreTrainedTokenizerBase", role: str, texts: list[str]) -> list[str]:
    return tokenizer.apply_chat_template([[{"role": role, "content": text}] for text in texts], tokenize=False)


def turn_lengths(tokenizer: "PreTrainedTokenizerBase", role: str, texts: list[str]) -> np.ndarray:
    """The length of each text as the only turn of a conversation: its tokens through the chat template, plus 1.

    So role headers count, and so does the system block where the template adds one by default; the 1 is for the
    end-of-text token that training appends.

    Returns:
        int64, `(texts,)`.
    """
    lengths = []
    for batch in _batches(texts):
        # The template writes the special tokens itself.
        encoded = tokenizer(_render(tokenizer, role, batch), add_special_tokens=False, verbose=False)
        lengths += [len(ids) + 1 for ids in encoded["input_ids"]]
    return np.array(lengths, dtype=np.int64)


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """Cuts texts, in order, into lists that just reach `BATCH_CHARACTERS`."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def response_texts(conversations: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text of the assistant turn, the second and last, of each conversation."""
    return pc.struct_field(pc.list_element(conversations, 1), "content")


def filter_by_length(
    pairs: pa.Table, tokenizer: "PreTrainedTokenizerBase", max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, Counter[str]]:
    """Adds `prompt_len`, `chosen_len` and `rejected_len`, and drops the pairs that exceed a limit.

    The rule is the original's: `turn_lengths` of the prompt and of each response alone, except that a pair whose two
    responses are the same text has the response length 1.

    Args:
        pairs: as `redi.data.selection.select_pairs` makes them.
        tokenizer: from `load_tokenizer`.
        max_prompt_tokens: the longest prompt kept.
        max_response_tokens: the longest response kept, chosen and rejected alike.

    Returns:
        The remaining pairs, and the number dropped for each reason; a pair too long in both is counted by its prompt.
    """
    prompt_len = turn_lengths(tokenizer, "user", pairs["prompt"].to_pylist())
    fits = prompt_len <= max_prompt_tokens
    drops = Counter({PROMPT_TOO_LONG: int((~fits).sum())})
    pairs = pairs.filter(pa.array(fits)).append_column("prompt_len", pa.array(prompt_len[fits]))

    chosen, rejected = response_texts(pairs["chosen"]), response_texts(pairs["rejected"])
    differ = pc.not_equal(chosen, rejected).to_numpy()
    fits = np.ones(len(pairs), dtype=bool)
    for name, texts in (("chosen_len", chosen), ("rejected_len", rejected)):
        # Where the chosen response is too long, the pair is dropped whatever the length of the rejected one.
        measured = differ & fits
        length = np.ones(len(pairs), dtype=np.int64)
        length[measured] = turn_lengths(tokenizer, "assistant", texts.filter(pa.array(measured)).to_pylist())
        pairs = pairs.append_column(name, pa.array(length))
        fits &= length <= max_response_tokens
    drops[RESPONSE_TOO_LONG] = int((~fits).sum())
    return pairs.filter(pa.array(fits)), drops
