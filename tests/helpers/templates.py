"""Chat templates of model families: those that TRL ships, and small ones of the same structure for the others."""

from pathlib import Path

import trl
from tokenizers.processors import TemplateProcessing

from helpers.tiny import CHATML, make_tokenizer
from redi.runs.files import CONFIGS

# Llama-2 and Mistral: no header for the assistant's turn, which ends in eos.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Later ones write a system's message before that of the last turn, if this is the user's.
MISTRAL_V3 = (
    "{{ bos_token }}{% set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}[INST] "
    "{% if loop.last and turns | length < messages | length %}{{ messages[0]['content'] }}\n\n{% endif %}"
    "{{ m['content'] }}[/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
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
# As OPENS_THOUGHT, and before every assistant's turn as well.
OPENS_THOUGHT_TWICE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
FAMILIES = {  # template, eos, what follows the content in y
    "Qwen2.5-Math": (CHATML, "<|endoftext|>", "<|im_end|>\n<|endoftext|>"),
    "Qwen2.5-Instruct": ("qwen2_5", "<|im_end|>", "<|im_end|>"),
    "SmolLM2": (SMOLLM2, "<|im_end|>", "<|im_end|>"),
    "Llama-3": ("llama3", "<|eot_id|>", "<|eot_id|>"),
    "Llama-3 base": ("llama3", "<|end_of_text|>", "<|eot_id|><|end_of_text|>"),
    "Llama-3.2": ("llama3_2", "<|eot_id|>", "<|eot_id|>"),
    "Mistral": (MISTRAL, "</s>", "</s>"),
    "Mistral-v0.3": (MISTRAL_V3, "</s>", "</s>"),
    "Phi-4": (PHI4, "<|im_end|>", "<|im_end|>"),
    "Gemma": ("gemma", "<eos>", "<end_of_turn>\n<eos>"),
    "Gemma-3": ("gemma3", "<eos>", "<end_of_turn>\n<eos>"),
    "Gemma-3-it": ("gemma3", "<end_of_turn>", "<end_of_turn>"),
    "Llama-3.1": ("llama3_1", "<|eot_id|>", "<|eot_id|>"),
    "Phi-3": ("phi3", "<|endoftext|>", "<|end|>\n<|endoftext|>"),
    "R1-Distill": (
        (CONFIGS / "chat_templates" / "deepseek-r1.jinja").read_text(encoding="utf-8"),
        "<|end|>",
        "<|end|>",
    ),
    "Qwen3": ("qwen3", "<|im_end|>", "<|im_end|>"),
}


def family(template: str, eos: str):
    """The tests' tokenizer with a template, or the one of this name that TRL ships, and an eos of its own."""
    shipped = Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja"
    is_name = len(template) < 40 and shipped.is_file()
    extra = dict.fromkeys(["<s>", eos, "<|eot_id|>", "<end_of_turn>", "<|im_sep|>", "<|end|>"])
    tokenizer = make_tokenizer(tuple(token for token in extra if token not in ("<|endoftext|>", "<|im_end|>")))
    tokenizer.eos_token, tokenizer.bos_token = eos, "<s>"
    tokenizer.chat_template = shipped.read_text(encoding="utf-8") if is_name else template
    return tokenizer


def with_bos(tokenizer):
    """The tokenizer, which now begins every text with its bos, as those of Llama, Mistral, Gemma and DeepSeek do."""
    special = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    single = f"{tokenizer.bos_token} $A"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return tokenizer
