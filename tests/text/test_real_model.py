"""The pretrained model of the tests is what it says: it answers in English, and its tokenizer loses nothing."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real_tokenizer(real_path):
    return AutoTokenizer.from_pretrained(real_path)


def test_it_is_an_unquantised_model_of_135_million_parameters(real_path):
    config = json.loads((real_path / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    model = AutoModelForCausalLM.from_pretrained(real_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_it_answers_in_english_and_ends_its_turn(real_path, real_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(real_path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = real_tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = real_tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize(
    "text", ["Hello  world\n\n\\boxed{42} = 3.14", "  leading", "a\tb", "<think>\ncafé 数学 ∑\n</think>", "🙂"]
)
def test_the_tokenizer_gives_back_every_text(real_tokenizer, text):
    assert real_tokenizer.decode(real_tokenizer(text).input_ids) == text


def test_its_template_is_chatml_with_a_system_line_of_its_own(real_tokenizer):
    messages = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    text = real_tokenizer.apply_chat_template(messages, tokenize=False)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    turns = [("system", system), ("user", "1 + 1?"), ("assistant", "2")]
    assert text == "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    assert (real_tokenizer.eos_token, real_tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
