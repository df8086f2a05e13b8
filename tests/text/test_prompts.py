"""What a model is asked, byte for byte, and where its answer ends."""

import pytest
from helpers.evaluation import build_tokenizer
from transformers import GenerationConfig

from redi.runs.errors import UsageError
from redi.text.encoding import encode
from redi.text.prompts import make_prompt, read_chat_template, stop_token_ids, user_turn

PAPER_PROMPT = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    r"following format: 'Therefore, the final answer is: $\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
    "\n\nWhat is {1}?"
)
SYSTEM = "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer():
    """With Qwen2.5-Math's template."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = read_chat_template("qwen2.5-math")
    return tokenizer


def test_user_turn():
    assert user_turn("What is {1}?", "paper") == PAPER_PROMPT
    assert user_turn("What is {1}?", "bare") == "What is {1}?"


@pytest.mark.parametrize(("style", "question"), [("paper", PAPER_PROMPT), ("bare", "What is {1}?")])
@pytest.mark.parametrize(
    ("force_think", "opening"),
    [
        ("none", "<|im_start|>assistant\n"),
        ("as-trained", "<|im_start|>assistant\n<think>\n"),
        ("as-published", "<|im_start|>assistant<think>\n"),
    ],
)
def test_prompts_byte_for_byte(tokenizer, style, question, force_think, opening):
    prompt, token_ids = make_prompt(tokenizer, "What is {1}?", style, force_think)
    assert prompt == f"{SYSTEM}<|im_start|>user\n{question}<|im_end|>\n{opening}"
    assert tokenizer.decode(token_ids) == prompt


def test_the_prompt_as_trained_is_the_tokens_that_training_saw(tokenizer):
    thought = [{"role": "assistant", "content": "<think>\nOkay, 2.\n</think>\n\n\\boxed{2}"}]
    prompt_ids, completion_ids = encode(tokenizer, [{"role": "user", "content": "What is {1}?"}], thought)
    _, token_ids = make_prompt(tokenizer, "What is {1}?", "bare", "as-trained")
    num_forced = len(token_ids) - len(prompt_ids)
    assert token_ids == prompt_ids + completion_ids[:num_forced]
    assert tokenizer.decode(completion_ids[:num_forced]) == "<think>\n"


def test_a_template_that_opens_the_thought_itself_is_not_made_to_do_it_twice(tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert make_prompt(tokenizer, "1", "bare", "as-trained") == make_prompt(tokenizer, "1", "bare", "none")


def test_chatml_has_no_system_block_unless_there_is_one(tokenizer):
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    chatml = read_chat_template("chatml")
    text = "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, chat_template=chatml, tokenize=False) == text
    turns.insert(0, {"role": "system", "content": "Be brief."})
    text = "<|im_start|>system\nBe brief.<|im_end|>\n" + text
    for template in (chatml, tokenizer.chat_template):
        assert tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False) == text


def test_stop_tokens_are_eos_and_the_end_of_a_turn(tokenizer):
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert tokenizer.eos_token_id == end_of_text
    assert stop_token_ids(tokenizer, None) == sorted([end_of_text, end_of_turn])
    assert stop_token_ids(tokenizer, GenerationConfig(eos_token_id=[end_of_text, 77])) == [
        end_of_text,
        end_of_turn,
        77,
    ]


def test_a_template_without_an_end_of_turn_adds_no_stop_token():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert stop_token_ids(tokenizer, None) == [tokenizer.eos_token_id]


def test_as_published_is_for_chatml():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }} Answer:"
    with pytest.raises(UsageError, match="this one's end in "):
        make_prompt(tokenizer, "1", "bare", "as-published")
