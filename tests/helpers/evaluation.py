"""Tiny models for the evaluation tests, built in a moment and without a network."""

import json
import runpy
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from helpers.paths import REPOSITORY

main = runpy.run_path(str(REPOSITORY / "scripts" / "evaluate.py"))["main"]

# ChatML, whose turns do not end in eos: <|im_end|> against <|endoftext|>.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(text: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, which reads any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def build_model(folder: Path, max_positions: int = 2048, seed: int = 0, hidden_size: int = 32) -> Path:
    """A random Qwen2 of 2 layers and 4 heads, with a Qwen-like generation config that must not be obeyed."""
    tokenizer = build_tokenizer(["Solve the following math problem. What is 1 + 2?"])
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # wide enough that greedy choices are no ties
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=1.8, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def write_benchmark(path: Path, num_problems: int = 5) -> Path:
    rows = [{"id": f"p{i}", "problem": "What is 1 + 2? " * (i + 1), "answer": str(i)} for i in range(num_problems)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
