"""What a model is asked, and where its answer ends."""

import hashlib

from redi.runs import UsageError

# https://huggingface.co/papers/2505.24850, appendix C; two spaces after "clearly.", as in the authors' code.
PAPER_INSTRUCTION = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
)
STYLES = ("paper", "bare")


def user_turn(problem: str, style: str) -> str:
    """The user's message: the problem after the paper's instruction (`paper`), or alone, as in training (`bare`)."""
    return f"{PAPER_INSTRUCTION}\n\n{problem}".strip() if style == "paper" else problem


def render_prompt(tokenizer, problem: str, style: str) -> str:
    """The whole prompt as text, up to and including what opens the assistant's turn."""
    messages = [{"role": "user", "content": user_turn(problem, style)}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """Token ids of a rendered prompt. The template has written every special token, so none is added."""
    return tokenizer(prompt, add_special_tokens=False).input_ids


def template_hash(tokenizer) -> str:
    """SHA-256 of the chat template.

    Raises:
        UsageError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise UsageError(f"--model {tokenizer.name_or_path}: its tokenizer has no chat template")
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def stop_token_ids(tokenizer, model_generation_config) -> list[int]:
    """Every token that ends an answer, in ascending order.

    The tokenizer's eos, the model's eos ids, and the token that the chat template writes after an assistant's turn.
    The last matters for base models: Qwen2.5-Math's eos is `<|endoftext|>`, while its turns end in `<|im_end|>`.

    Args:
        tokenizer: with a chat template.
        model_generation_config: the model's `GenerationConfig`, or None.
    """
    model_eos = getattr(model_generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(model_eos if isinstance(model_eos, list) else [model_eos])}
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "SOME_ANSWER"}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("SOME_ANSWER")[2]
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids.add(next((token for token in encode_prompt(tokenizer, after) if token in special), None))
    return sorted(ids - {None})
