"""Two ways to count the tokens of a prompt and of a response: the paper's, and the exact one that training sees."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from redi.data.lengths.token_counts import count_tokens
from redi.runs.errors import UsageError, usage_errors
from redi.text.encoding import Message, date_options, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# "paper": each turn alone through the chat template, plus 1, unless both responses are the same text (`pair_lengths`).
# The paper's 53,175 pairs depend on this count. "exact": what training sees, `redi.text.encoding.encode`.
LENGTH_RULES = ("paper", "exact")


def load_counting_tokenizer(path: str, rule: str = "paper") -> "PreTrainedTokenizerBase":
    """Loads a tokenizer whose chat template can render what the length rule counts.

    Raises:
        UsageError: there is no tokenizer at `path`, it has no chat template, or the template refuses a lone turn
            ("paper") or does not continue its own prompt ("exact").
    """
    from redi.runs.model_folder import open_tokenizer  # imports transformers, which takes seconds

    tokenizer = open_tokenizer(path, f"--tokenizer {path}")
    if tokenizer.chat_template is None:
        raise UsageError(f"--tokenizer {path} has no chat template; use the tokenizer of the model to be trained")
    if rule == "exact":
        if tokenizer.eos_token_id is None:
            raise UsageError(f"--tokenizer {path} has no eos token, which training appends to every response; set one")
        list(_render_completions(tokenizer, ["probe"], ["probe"]))
    else:
        for role in ("user", "assistant"):
            _check_lone_turn(path, tokenizer, role)
    return tokenizer


def _check_lone_turn(path: str, tokenizer: "PreTrainedTokenizerBase", role: str) -> None:
    where = f"--tokenizer {path}: rendering a conversation of one {role} turn"
    remedy = "lengths are counted on such conversations, so use a tokenizer whose chat template allows them"
    with usage_errors(lambda error: f"{where} fails: {error}; {remedy}", TemplateError, ValueError):
        rendered = _render_turn(tokenizer, role, "probe")
    if "probe" not in rendered:
        raise UsageError(f"{where} leaves out its text: {rendered!r}; {remedy}")


def _render_turn(tokenizer: "PreTrainedTokenizerBase", role: str, text: str, **options: bool) -> str:
    """The text as the only turn of a conversation."""
    return tokenizer.apply_chat_template([_message(role, text)], tokenize=False, **date_options(tokenizer), **options)


def _render_completions(
    tokenizer: "PreTrainedTokenizerBase", prompts: Iterable[str], responses: Iterable[str]
) -> Iterator[str]:
    """What training tokenises of each response."""
    where = f"--tokenizer {tokenizer.name_or_path}"
    with usage_errors(lambda error: f"{where} cannot render the conversation: {error}", TemplateError, ValueError):
        for prompt, response in zip(prompts, responses, strict=True):
            yield render(tokenizer, [_message("user", prompt)], [_message("assistant", response)])[1]


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def turn_lengths(tokenizer: "PreTrainedTokenizerBase", role: str, texts: Iterable[str]) -> np.ndarray:
    """The length of each text as the only turn of a conversation: its tokens through the chat template, plus 1.

    Role headers count, and so does the system block if the template adds one by default. The 1 is for the end-of-text
    token that training appends.

    Returns:
        int64, `(texts,)`.
    """
    return count_tokens(tokenizer, (_render_turn(tokenizer, role, text) for text in texts)) + 1


def prompt_lengths(tokenizer: "PreTrainedTokenizerBase", rule: str, prompts: list[str]) -> np.ndarray:
    """The length of each prompt; by "exact", up to and including the header of the assistant's turn.

    Returns:
        int64, `(prompts,)`.
    """
    if rule == "paper":
        return turn_lengths(tokenizer, "user", prompts)
    rendered = (_render_turn(tokenizer, "user", prompt, add_generation_prompt=True) for prompt in prompts)
    return count_tokens(tokenizer, rendered)


def response_lengths(
    tokenizer: "PreTrainedTokenizerBase", rule: str, prompts: list[str], responses: list[str]
) -> np.ndarray:
    """The length of each response; by "exact", its end of turn and the eos token included.

    By "exact", a response without text, or of white space, has the length 0: training drops it.

    Returns:
        int64, `(responses,)`.
    """
    if rule == "paper":
        return turn_lengths(tokenizer, "assistant", responses)
    lengths = count_tokens(tokenizer, _render_completions(tokenizer, prompts, responses)) + 1
    return np.where([bool(text.strip()) for text in responses], lengths, 0)


def pair_lengths(
    tokenizer: "PreTrainedTokenizerBase", rule: str, prompts: list[str], chosen: list[str], rejected: list[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The lengths of pairs, and for which of them the responses count as the same text.

    By "paper", the original finds the prompt as the common start of both conversations. If their responses are the
    same text, that is the complete conversation: its tokens, without the 1, are then the prompt's length, and both
    responses have the length 1.

    Returns:
        `prompt`, `chosen` and `rejected`, int64 `(pairs,)` each; and bool `(pairs,)`, all false by "exact".
    """
    lengths = {"prompt": prompt_lengths(tokenizer, rule, prompts)}
    lengths |= {
        name: response_lengths(tokenizer, rule, prompts, texts)
        for name, texts in (("chosen", chosen), ("rejected", rejected))
    }
    same = np.array(
        [rule == "paper" and one == other for one, other in zip(chosen, rejected, strict=True)], dtype=bool
    )
    conversations = [[_message("user", prompts[i]), _message("assistant", chosen[i])] for i in np.flatnonzero(same)]
    rendered = (tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations)
    lengths["prompt"][same] = count_tokens(tokenizer, rendered)
    lengths["chosen"][same] = lengths["rejected"][same] = 1
    return lengths, same


def response_texts(conversations: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text of the assistant turn, the second and last, of each conversation."""
    return pc.struct_field(pc.list_element(conversations, 1), "content")
