"""How a conversation becomes token ids, in one place for both stages and for evaluation."""

import os
import unicodedata
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any  # importing transformers takes seconds

Message = dict[str, Any]

# "Today" for chat templates that write the date: with the clock's, a model would be asked something new every day.
TODAY = date(2024, 7, 26)  # what Llama-3's templates write without a clock
TEXT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "tool_calls", "function_call")
THINK = "<think>\n"
OTHER_TEMPLATE = "use another one of configs/chat_templates: prepare_base_model.py --chat-template NAME"


def writes_date(tokenizer: Tokenizer) -> bool:
    """Whether the chat template asks for today's date; it always gets `TODAY`."""
    return "strftime_now" in str(tokenizer.chat_template)


def date_options(tokenizer: Tokenizer) -> dict[str, Any]:
    """Options of `apply_chat_template` that make the day `TODAY`."""
    return {"strftime_now": TODAY.strftime} if writes_date(tokenizer) else {}


def apply_template(tokenizer: Tokenizer, messages: list[Message], **options: Any) -> str:
    """The messages as the chat template renders them, on the day `TODAY`; a `ValueError` if it refuses them."""
    from jinja2 import TemplateError  # not a part of Python: --help works without packages

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **date_options(tokenizer), **options)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses the conversation: {error}; {OTHER_TEMPLATE}") from error


def adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer begins a text with its bos token. A prompt has only the one that the template writes."""
    return tokenizer.bos_token_id is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]


def template_notes(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[str]:
    """What training, evaluation and preflight say about a chat template that has rendered the prompt `prompt_ids`."""
    notes = {
        f"the chat template writes today's date: it is {TODAY}, in training and in evaluation": writes_date(tokenizer),
        f"the tokenizer begins a text with {tokenizer.bos_token!r}, but the chat template does not write it, so no "
        "prompt has it: make the model folder with prepare_base_model.py, which adds it, or choose a --chat-template "
        "with bos_token": adds_bos(tokenizer) and prompt_ids[0] != tokenizer.bos_token_id,
    }
    return [note for note, applies in notes.items() if applies]


def render_prompt(tokenizer: Tokenizer, messages: list[Message]) -> str:
    """The text up to and including the header of the assistant's turn.

    A `ValueError` if it lacks a user's or system's message, or begins with two bos tokens.
    """
    text = apply_template(tokenizer, messages, add_generation_prompt=True)
    if tokenizer.bos_token and text.startswith(2 * tokenizer.bos_token):
        raise ValueError(f"the chat template writes {tokenizer.bos_token!r} twice; {OTHER_TEMPLATE}")
    for role, content in ((message["role"], message["content"]) for message in messages):
        if role in ("user", "system") and content.strip() not in text:
            raise ValueError(f"the chat template changes or drops the {role}'s {_shown(content)}; {OTHER_TEMPLATE}")
    return text


def render(tokenizer: Tokenizer, prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
    """The texts that `encode` tokenises: the prompt, and its completion without the eos token; raises as `encode`."""
    prompt_text = render_prompt(tokenizer, prompt)
    full_text = apply_template(tokenizer, prompt + completion)
    start = len(prompt_text)
    if not full_text.startswith(prompt_text):
        raise ValueError(
            f"the tokenizer's chat template does not continue its own generation prompt: {prompt_text[-40:]!r} is "
            f"followed by a different text once there is an assistant's turn; {OTHER_TEMPLATE}"
        )
    content = completion[-1]["content"].strip()
    # A template may open the thought in the prompt. The content then begins there, but never ends there.
    begin = full_text.find(content, max(0, start - len(content) + 1)) if content else start
    if begin < 0 or full_text[start:begin].strip():
        turn = full_text[start:].strip()
        at = len(os.path.commonprefix([turn, content]))
        raise ValueError(
            f"the chat template does not leave the assistant's text unchanged: after {content[max(0, at - 20) : at]!r}"
            f" it writes {turn[at : at + 30]!r}, not {content[at : at + 30]!r}; {OTHER_TEMPLATE}"
        )
    end = begin + len(content)
    if prompt_text.rstrip().endswith(THINK.strip()) and full_text[start:].lstrip().startswith(THINK.strip()):
        raise ValueError(f"the chat template opens a thought that the assistant's text opens too; {OTHER_TEMPLATE}")
    return prompt_text, full_text[start:end] + full_text[end:].partition(tokenizer.eos_token)[0]


def encode(tokenizer: Tokenizer, prompt: list[Message], completion: list[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of its completion y: an assistant's turn. They are tokenised separately.

    The prompt is the chat template's rendering up to and including the header of the assistant's turn. y is what the
    template adds for that turn, the content and its end-of-turn tokens, up to one eos: the template's own, or one that
    is appended if it writes none, as for Qwen2.5-Math in the original implementation. All of y is scored and counted
    in |y|. A `ValueError` says how the template or the tokenizer changes the conversation.
    """
    prompt_text, text = render(tokenizer, prompt, completion)
    prompt_ids, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt_text, text))
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if decoded != text and (found := _letters(decoded)) != (wanted := _letters(text)):
        at = len(os.path.commonprefix([found, wanted]))
        raise ValueError(
            f"the tokenizer loses text: {wanted[max(0, at - 10) : at + 20]!r} becomes "
            f"{found[max(0, at - 10) : at + 20]!r} (white space left out); use a tokenizer that can write it"
        )
    return prompt_ids, ids + [tokenizer.eos_token_id]


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())  # Qwen's tokenizers normalise to NFC


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]} ..." if len(text) > 60 else text


def check_messages(messages: Any, column: str) -> list[Message]:
    """The messages without their null entries; a `ValueError` if they have another shape, or text in another key."""
    is_list = isinstance(messages, list) and messages
    for message in messages if is_list else [messages]:
        texts = [message.get(key) for key in ("role", "content")] if is_list and isinstance(message, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"`{column}` must be a list of messages {{'role': ..., 'content': text}}, not {_shown(message)}"
            )
        if other := next((key for key in TEXT_KEYS if message.get(key)), None):
            raise ValueError(f"`{column}`: a message has `{other}`; put all text into `content`, or remove the key")
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def split_row(row: dict[str, Any], kind: str) -> tuple[list[Message], list[list[Message]]]:
    """A row as message lists: its prompt and its completions, each of them one assistant turn.

    Positives hold whole conversations in `messages`, pairs in `chosen` and `rejected`, as `build_pairs.py` writes
    them; a pair's `prompt`, a string, is then ignored. Where `prompt` is a list of messages, `chosen` and `rejected`
    may be the assistant's turn alone (TRL's conversational format). In traces, `prompt` and `completion` may be text.
    A `ValueError` if the row has no such shape, or the prompts differ.
    """
    prompt = None if kind == "positives" else row.get("prompt")
    if kind == "traces" and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    prompt = check_messages(prompt, "prompt") if kind == "traces" or isinstance(prompt, list) else None
    columns = {"positives": ["messages"], "pairs": ["chosen", "rejected"], "traces": ["completion"]}[kind]
    prompts, turns = [] if prompt is None else [prompt], []
    for column in columns:
        messages = row[column]
        if kind == "traces" and isinstance(messages, str):
            messages = [{"role": "assistant", "content": messages}]
        messages = check_messages(messages, column)
        is_turn = prompt is not None and messages[0]["role"] == "assistant"
        before, turn = (prompt, messages) if is_turn else (messages[:-1], messages[-1:])
        if not before or [message["role"] for message in turn] != ["assistant"]:  # a user's turn would be scored
            raise ValueError(
                f"`{column}` must end with an assistant turn after a prompt, or be one assistant turn after the "
                f"messages of `prompt`; its roles are {[message['role'] for message in messages]}"
            )
        prompts.append(before)
        turns.append(turn)
    if any(each != prompts[0] for each in prompts):
        raise ValueError(f"{', '.join(f'`{column}`' for column in ['prompt', *columns])} hold different prompts")
    return prompts[0], turns
