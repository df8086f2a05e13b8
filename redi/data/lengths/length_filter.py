"""Token lengths of pairs, counted as the original counts them or as training does, and the filter on them."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from redi.data.lengths.token_counts import TokenCounter
from redi.runs.errors import UsageError
from redi.text.encoding import Message, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"

# "paper": each turn alone through the chat template, plus 1, and 1 for two responses of the same text: the count that
# the paper's 53,175 pairs depend on. "exact": what training sees, `redi.text.encoding.encode`.
LENGTH_RULES = ("paper", "exact")

# Characters rendered, and counted by one process, at a time: a hundredth of a second. They fit into a pipe's buffer.
BATCH_CHARACTERS = 100_000


def load_tokenizer(path: str, rule: str = "paper") -> TokenCounter:
    """Loads a tokenizer to count with, whose chat template can render what the length rule needs.

    Raises:
        UsageError: there is no tokenizer at `path`, it has no chat template, or the template refuses a lone turn
            ("paper") or does not continue its own prompt ("exact").
    """
    from transformers import AutoTokenizer  # takes seconds to import, and only the length filter needs it

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--tokenizer {path}: no tokenizer could be loaded from there: {error}") from error
    if tokenizer.chat_template is None:
        raise UsageError(f"--tokenizer {path} has no chat template; use the tokenizer of the model to be trained")
    (_check_whole_conversations if rule == "exact" else _check_lone_turns)(path, tokenizer)
    return TokenCounter(tokenizer)


def _check_lone_turns(path: str, tokenizer: "PreTrainedTokenizerBase") -> None:
    for role in ("user", "assistant"):
        where = f"--tokenizer {path}: rendering a conversation of one {role} turn"
        remedy = "lengths are counted on such conversations, so use a tokenizer whose chat template allows them"
        try:
            rendered = _render_turns(tokenizer, role, ["probe"])[0]
        except (TemplateError, ValueError) as error:
            raise UsageError(f"{where} fails: {error}; {remedy}") from error
        if "probe" not in rendered:
            raise UsageError(f"{where} leaves its text out: {rendered!r}; {remedy}")


def _check_whole_conversations(path: str, tokenizer: "PreTrainedTokenizerBase") -> None:
    if tokenizer.eos_token_id is None:
        raise UsageError(f"--tokenizer {path} has no eos token, which training appends to every response; set one")
    _render_completions(tokenizer, ["probe"], ["probe"])


def _render_turns(tokenizer: "PreTrainedTokenizerBase", role: str, texts: list[str], **options: bool) -> list[str]:
    """Each text as the only turn of a conversation."""
    turns = [[_message(role, text)] for text in texts]
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)


def _render_completions(tokenizer: "PreTrainedTokenizerBase", prompts: list[str], responses: list[str]) -> list[str]:
    """What training tokenises of each response."""
    try:
        return [
            render(tokenizer, [_message("user", prompt)], [_message("assistant", response)])[1]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
    except (TemplateError, ValueError) as error:
        raise UsageError(f"--tokenizer {tokenizer.name_or_path} cannot render the conversation: {error}") from error


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def turn_lengths(counter: TokenCounter, role: str, texts: list[str]) -> np.ndarray:
    """The length of each text as the only turn of a conversation: its tokens through the chat template, plus 1.

    So role headers count, and so does the system block where the template adds one by default; the 1 is for the
    end-of-text token that training appends.

    Returns:
        int64, `(texts,)`.
    """
    rendered = (_render_turns(counter.tokenizer, role, batch) for batch in _batches(texts))
    return np.array(counter.count(rendered), dtype=np.int64) + 1


def prompt_lengths(counter: TokenCounter, rule: str, prompts: list[str]) -> np.ndarray:
    """The length of each prompt; by "exact", up to and including the header of the assistant's turn.

    Returns:
        int64, `(prompts,)`.
    """
    if rule == "paper":
        return turn_lengths(counter, "user", prompts)
    batches = _batches(prompts)
    rendered = (_render_turns(counter.tokenizer, "user", batch, add_generation_prompt=True) for batch in batches)
    return np.array(counter.count(rendered), dtype=np.int64)


def response_lengths(counter: TokenCounter, rule: str, prompts: list[str], responses: list[str]) -> np.ndarray:
    """The length of each response; by "exact", its end of turn and the eos token included.

    By "exact", a response without text has the length 0: training drops it.

    Returns:
        int64, `(responses,)`.
    """
    if rule == "paper":
        return turn_lengths(counter, "assistant", responses)
    prompt = iter(prompts)
    rendered = (
        _render_completions(counter.tokenizer, [next(prompt) for _ in batch], batch) for batch in _batches(responses)
    )
    lengths = np.array(counter.count(rendered), dtype=np.int64) + 1
    return np.where([text != "" for text in responses], lengths, 0)


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
    pairs: pa.Table, counter: TokenCounter, rule: str, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, Counter[str]]:
    """Adds `prompt_len`, `chosen_len` and `rejected_len`, and drops the pairs that exceed a limit.

    Args:
        pairs: as `redi.data.selection.select_pairs` makes them.
        counter: from `load_tokenizer`, for the same rule.
        rule: of `LENGTH_RULES`. By "paper", a pair whose two responses are the same text has the response length 1.
        max_prompt_tokens: the longest prompt kept.
        max_response_tokens: the longest response kept, chosen and rejected alike.

    Returns:
        The remaining pairs, and the number dropped for each reason; a pair too long in both is counted by its prompt.
    """
    prompt_len = prompt_lengths(counter, rule, pairs["prompt"].to_pylist())
    fits = prompt_len <= max_prompt_tokens
    drops = Counter({PROMPT_TOO_LONG: int((~fits).sum())})
    pairs = pairs.filter(pa.array(fits)).append_column("prompt_len", pa.array(prompt_len[fits]))

    chosen, rejected = response_texts(pairs["chosen"]), response_texts(pairs["rejected"])
    differ = pc.not_equal(chosen, rejected).to_numpy() | (rule == "exact")
    fits = np.ones(len(pairs), dtype=bool)
    for name, texts in (("chosen_len", chosen), ("rejected_len", rejected)):
        # Where the chosen response is too long, the pair is dropped whatever the length of the rejected one.
        counted = fits & differ
        texts_counted = (column.filter(pa.array(counted)).to_pylist() for column in (pairs["prompt"], texts))
        length = np.ones(len(pairs), dtype=np.int64)
        length[counted] = response_lengths(counter, rule, *texts_counted)
        pairs = pairs.append_column(name, pa.array(length))
        fits &= length <= max_response_tokens
    drops[RESPONSE_TOO_LONG] = int((~fits).sum())
    return pairs.filter(pa.array(fits)), drops
