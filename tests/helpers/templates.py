"""Chat templates of model families: those that TRL ships, and small ones of the same structure for the others."""

from pathlib import Path

import trl

from helpers.tiny import make_tokenizer

# Llama-2 and Mistral: no header for the assistant's turn, which ends in eos.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# SmolLM2: ChatML whose end of turn is the eos.
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI4 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_sep|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
# DeepSeek-R1-Distill before its generation prompt opened the thought; it drops the thoughts of every turn.
R1_OLD = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% else %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)
# Templates for contents in parts: a string has none.
PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OPENS_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def family(template: str, eos: str):
    """The tests' tokenizer with a template, or the one of this name that TRL ships, and an eos of its own."""
    shipped = Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja"
    is_name = len(template) < 40 and shipped.is_file()
    extra = ("<s>", eos, "<|eot_id|>", "<end_of_turn>", "<|im_sep|>")
    tokenizer = make_tokenizer(tuple(token for token in extra if token not in ("<|endoftext|>", "<|im_end|>")))
    tokenizer.eos_token, tokenizer.bos_token = eos, "<s>"
    tokenizer.chat_template = shipped.read_text(encoding="utf-8") if is_name else template
    return tokenizer
