"""Sampling with transformers on a tiny random Qwen2: batches, random numbers and the nucleus."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from redi.evaluation.generation.transformers_backend import BLOCK, choose, draw, generate_tokens
from redi.text.prompts import encode_prompt, stop_token_ids


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_batched_greedy_equals_one_by_one_and_transformers(model, tokenizer):
    """Left padding changes nothing, nor does dropping finished answers, nor the model's own generation config."""
    stops = tuple(stop_token_ids(tokenizer, None))
    prompts = [tuple(encode_prompt(tokenizer, "What is 1 + 2? " * (1 + 2 * i))) for i in range(6)]
    seeds = [0] * 6
    frequent = generate_tokens(model, prompts[:1], (), [24], 0, 1, seeds)[0][3]  # ends answers at all lengths
    stops += (frequent,)
    together = generate_tokens(model, prompts, stops, [24] * 6, 0, 1, seeds)
    alone = [generate_tokens(model, [prompt], stops, [24], 0, 1, seeds)[0] for prompt in prompts]
    assert together == alone
    assert len({len(answer) for answer in together}) > 1
    for prompt, answer in zip(prompts, together, strict=True):
        config = GenerationConfig(
            do_sample=False,
            top_k=50,
            repetition_penalty=1.0,
            max_new_tokens=24,
            eos_token_id=list(stops),
            pad_token_id=0,
        )
        reference = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        assert answer == reference


def test_sampled_answers_do_not_depend_on_their_neighbours(model, tokenizer):
    """Each answer has its own seed and its own limit, past the first block of random numbers too."""
    prompts = [tuple(encode_prompt(tokenizer, "What is 1 + 2? " * (1 + i))) for i in range(4)]
    limits, seeds = [BLOCK + 30, 9, 40, BLOCK + 5], [11, 12, 13, 14]
    together = generate_tokens(model, prompts, (), limits, 1.0, 0.95, seeds)
    assert [len(answer) for answer in together] == limits
    for index in range(4):
        part = slice(index, index + 1)
        assert generate_tokens(model, prompts[part], (), limits[part], 1.0, 0.95, seeds[part]) == together[part]
    assert generate_tokens(model, prompts[:1], (), limits[:1], 1.0, 0.95, [12])[0] != together[0]


def test_blocks_of_random_numbers_are_uniform_and_differ():
    numbers = torch.stack([draw(list(range(200)), block) for block in range(3)])
    assert numbers.shape == (3, 200, BLOCK) and numbers.unique().numel() > 0.99 * numbers.numel()
    assert (numbers.min(), numbers.max()) == pytest.approx((0, 1), abs=1e-3) and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(draw([7, 5], 2)[1], numbers[2, 5])


def test_choose_draws_from_the_nucleus():
    """Probabilities .5 .3 .15 .05: a nucleus of .7 is the first two, drawn 5 to 3."""
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().expand(20_000, 4)
    uniform = torch.arange(20_000)[:, None] / 20_000

    def shares(temperature: float, top_p: float) -> list[float]:
        return (choose(logits, temperature, top_p, uniform).bincount(minlength=4) / 20_000).tolist()

    assert shares(1.0, 0.7) == pytest.approx([0, 0.625, 0, 0.375], abs=0.001)
    assert shares(1.0, 1.0) == pytest.approx([0.05, 0.5, 0.15, 0.3], abs=0.001)
    assert choose(logits[:2], 0, 0.7, uniform[:2]).tolist() == [1, 1]
    # at temperature .5 they are squared: .25 .09 .0225 .0025 of .365
    assert shares(0.5, 1.0)[1] == pytest.approx(0.25 / 0.365, abs=0.001)


def test_choose_widens_its_guess_in_a_large_vocabulary():
    uniform = torch.arange(2_000)[:, None] / 2_000
    drawn = choose(torch.zeros(2_000, 8_192), 1.0, 0.5, uniform)  # a nucleus of 4096 tokens: more than looked at first
    assert drawn.unique().numel() > 1_500
