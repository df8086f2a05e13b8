"""How a conversation becomes token ids, in one place for both stages and for evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: list[Message], completion: list[Message]
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion, as the original implementation of REDI builds them.

    The prompt is the chat template's rendering up to and including the header of the assistant turn. The completion y
    is what the template adds for the assistant's turn (the content and its end-of-turn tokens) and then one eos token.
    All of y is scored and counted in |y|. Prompt and completion are tokenised separately, so no token spans both.

    Args:
        tokenizer: a tokenizer with a chat template and an eos token.
        prompt: the messages before the assistant's turn, at least one.
        completion: the assistant's turn, a list of one message.

    Returns:
        `(prompt_ids, completion_ids)`.

    Raises:
        ValueError: the template does not continue its own generation prompt, so training would not see the prompt
            that generation uses.
    """
    prompt_text, completion_text = render(tokenizer, prompt, completion)
    prompt_ids = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completion_text, add_special_tokens=False)["input_ids"]
    return prompt_ids, completion_ids + [tokenizer.eos_token_id]


def render(tokenizer: "PreTrainedTokenizerBase", prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
    """The texts that `encode` tokenises: the prompt, and its completion without the eos token.

    Raises:
        ValueError: as `encode` does.
    """
    prompt_text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    full_text = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    if not full_text.startswith(prompt_text):
        raise ValueError(
            f"the tokenizer's chat template does not continue its own generation prompt: {prompt_text[-40:]!r} is "
            "followed by a different text once there is an assistant's turn; use a chat template that keeps it"
        )
    return prompt_text, full_text[len(prompt_text) :]


def split_conversation(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Splits a conversation that ends with the assistant's turn into `(prompt, completion)`.

    Raises:
        ValueError: the conversation has no prompt, or ends with another role.
    """
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise ValueError(f"a conversation must end with an assistant turn after a prompt, got the roles {roles}")
    return messages[:-1], messages[-1:]


def split_pair(row: dict[str, Any]) -> tuple[list[Message], list[Message], list[Message]]:
    """A preference row as `(prompt, chosen, rejected)` message lists. There are two shapes:

    - `prompt` a list of messages, `chosen` and `rejected` the assistant's turn alone (TRL's conversational format);
    - `chosen` and `rejected` complete conversations with a common prompt, as `build_pairs.py` writes them; a `prompt`
      column (a string) is then ignored, since the conversations hold it.

    Raises:
        ValueError: the row has neither shape, or its two conversations have different prompts.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise ValueError("`chosen` and `rejected` must be lists of messages ({'role', 'content'}), got text")
    if chosen[0]["role"] != "assistant":
        prompt, chosen_turn = split_conversation(chosen)
        rejected_prompt, rejected_turn = split_conversation(rejected)
        if prompt != rejected_prompt:
            raise ValueError("`chosen` and `rejected` hold different prompts")
        return prompt, chosen_turn, rejected_turn
    if not isinstance(row.get("prompt"), list):
        raise ValueError("`chosen` is an assistant turn alone, so `prompt` must be a list of messages")
    return row["prompt"], chosen, rejected
