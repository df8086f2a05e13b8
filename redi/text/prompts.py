"""Prompts: what a model is asked, how its answer is made to begin, and which tokens end it."""

import hashlib
from pathlib import Path

from redi.runs.errors import UsageError, nearest, usage_errors
from redi.runs.files import CONFIGS
from redi.text.encoding import THINK, Message, apply_template, render_prompt

# https://huggingface.co/papers/2505.24850, appendix C; two spaces after "clearly.", as in the authors' code.
PAPER_INSTRUCTION = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
)
STYLES = ("paper", "bare")

# How the beginning of a thought is forced. As trained, "<think>\n" follows the header of the assistant's turn and
# the space that some templates write before the assistant's text, as Mistral's does. The template that the authors
# published for evaluation has no newline between the two.
FORCE_THINK = ("none", "as-trained", "as-published")
TEMPLATE_FOLDER = CONFIGS / "chat_templates"


def user_turn(problem: str, style: str) -> str:
    """The user's message: the problem after the paper's instruction (`paper`), or alone, as in training (`bare`)."""
    return f"{PAPER_INSTRUCTION}\n\n{problem}".strip() if style == "paper" else problem


def make_prompt(tokenizer, problem: str, style: str, force_think: str = "none") -> tuple[str, list[int]]:
    """The complete prompt, up to and including what opens the assistant's turn, as text and as token ids.

    As trained, prompt and thought are encoded separately, as `redi.text.encoding` does; a template that opens the
    thought itself is not changed. A template that leaves out the problem, or for `as-published` does not open the
    assistant's turn like ChatML, is a `UsageError`.
    """
    messages = [{"role": "user", "content": user_turn(problem, style)}]
    with usage_errors(lambda error: f"--model: {error}", ValueError):
        prompt = render_prompt(tokenizer, messages)
    if force_think == "as-published":
        if not prompt.endswith("assistant\n"):
            needed = "--force-think as-published needs prompts that end in 'assistant' and a newline"
            found = f"this one's end in {prompt[-20:]!r}"
            raise UsageError(f"{needed}; {found}; choose as-trained, or another --chat-template")
        prompt = prompt.removesuffix("\n") + THINK
    elif force_think == "as-trained" and not prompt.rstrip().endswith(THINK.strip()):
        with usage_errors(lambda error: f"--model: {error}", ValueError):
            thought = _before_text(tokenizer, messages, prompt) + THINK
        return prompt + thought, encode_prompt(tokenizer, prompt) + encode_prompt(tokenizer, thought)
    return prompt, encode_prompt(tokenizer, prompt)


def _before_text(tokenizer, messages: list[Message], prompt: str) -> str:
    """The white space that the template writes between a prompt and the assistant's text."""
    turn = {"role": "assistant", "content": f"{THINK}x\n</think>\n\nx"}
    before, thought, _ = apply_template(tokenizer, [*messages, turn]).removeprefix(prompt).partition(THINK)
    return before if thought and not before.strip() else ""


def encode_prompt(tokenizer, prompt: str) -> list[int]:
    """Token ids of a rendered prompt. The template has written all special tokens, so none is added."""
    return tokenizer(prompt, add_special_tokens=False).input_ids


def read_chat_template(name_or_path: str) -> str:
    """A chat template from a file, or by name from `configs/chat_templates`; a `UsageError` if there is none."""
    known = template_names()
    path = TEMPLATE_FOLDER / f"{name_or_path}.jinja" if name_or_path in known else Path(name_or_path)
    if not path.is_file():
        found = f"--chat-template {name_or_path} is neither a file nor a known name ({', '.join(known)})"
        raise UsageError(found + nearest(name_or_path, known))
    return path.read_text(encoding="utf-8")


def template_names() -> list[str]:
    return sorted(path.stem for path in TEMPLATE_FOLDER.glob("*.jinja"))


def template_hash(tokenizer) -> str:
    """SHA-256 of the chat template; a `UsageError` if the tokenizer has none."""
    if not tokenizer.chat_template:
        remedy = f"pass --chat-template with a .jinja file or a name ({', '.join(template_names())})"
        raise UsageError(f"--model {tokenizer.name_or_path}: its tokenizer has no chat template; {remedy}")
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def stop_token_ids(tokenizer, model_generation_config) -> list[int]:
    """Every token that ends an answer, in ascending order.

    The tokenizer's eos, the eos ids of the model's `GenerationConfig` (or None), and the token that the chat template
    writes after an assistant's turn: Qwen2.5-Math's eos is `<|endoftext|>`, while its turns end in `<|im_end|>`.
    """
    model_eos = getattr(model_generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(model_eos if isinstance(model_eos, list) else [model_eos])}
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "SOME_ANSWER"}]
    with usage_errors(lambda error: f"--model: {error}", ValueError):
        after = apply_template(tokenizer, turns).rpartition("SOME_ANSWER")[2]
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids.add(next((token for token in encode_prompt(tokenizer, after) if token in special), None))
    return sorted(ids - {None})
