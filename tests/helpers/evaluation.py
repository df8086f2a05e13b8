"""Tiny models for the evaluation tests, built in a moment without a network, and what their runs leave."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from helpers.paths import REPOSITORY
from helpers.tiny import make_tokenizer
from redi.text.prompts import read_chat_template

main = runpy.run_path(str(REPOSITORY / "scripts" / "evaluate.py"))["main"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML, whose turns end in another token than eos, and a thought between special tokens."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = read_chat_template("chatml")
    return tokenizer


def build_model(folder: Path, max_positions: int = 2048, seed: int = 0, hidden_size: int = 32) -> Path:
    """A random Qwen2 of 2 layers and 4 heads, with a Qwen-like generation config that must not be obeyed."""
    tokenizer = build_tokenizer()
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
        initializer_range=0.5,  # wide enough that no greedy choice is a tie
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


def text_of(folder: Path) -> dict:
    """The responses by benchmark, id and sample index; none occurs twice."""
    rows = rows_of(folder / "generations.jsonl")
    texts = {(row["benchmark"], row["id"], row["sample_idx"]): row["response"] for row in rows}
    assert len(texts) == len(rows)
    return texts


def refusal(command: list[str], capsys: pytest.CaptureFixture) -> str:
    """What evaluate.py prints to stderr when it refuses a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("error: ") == 1 and "Traceback" not in error
    return error


def write_benchmark(path: Path, num_problems: int = 5) -> Path:
    rows = [{"id": f"p{i}", "problem": "What is 1 + 2? " * (i + 1), "answer": str(i)} for i in range(num_problems)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
