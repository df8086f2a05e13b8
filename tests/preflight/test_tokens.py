"""A row as training and evaluation see it: every disagreement is found and shown."""

from pathlib import Path

import pytest
from helpers.tiny import CHATML, make_pairs
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from redi.preflight.tokens import Rendering, around, check_tokens, first_difference
from redi.runs.errors import UsageError

pytest_plugins = ["helpers.preflight"]


def with_template(model: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(model)


def test_a_doubled_system_block_is_found(job):
    with_template(job.model, "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML)
    message = job.check(code=2)
    assert "tokens: training has 2 system blocks: 'system\\nBe brief.', 'system\\nPlease reason" in message


def test_a_template_that_changes_its_own_prompt_is_found(job):
    with_template(job.model, CHATML.replace("assistant\n{% endif", "assistant<think>\n{% endif"))
    assert "does not continue its own generation prompt" in job.check(code=2)


def test_a_tokenizer_that_merges_the_tag_with_the_thought_shows_the_token(job):
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.add_tokens(["<think>\nstep"])
    tokenizer.save_pretrained(job.model)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job.model, vocab_size=len(tokenizer))).save_pretrained(
        job.model
    )
    message = job.check(code=2)
    assert "training and evaluation differ at token" in message
    assert "['<think>\\nstep']" in message and "['<'] 'think' '>'" in message


def test_a_trace_that_does_not_open_the_thought_as_evaluation_does_is_found(job):
    rows = [job.on_disk(row) for row in make_pairs(4)]
    for row in rows:
        for name in ("chosen", "rejected"):
            row[name][1] = {"role": "assistant", "content": row[name][1]["content"].replace("<think>\n", "<think> ")}
    job.write_rows(rows)
    assert "training and evaluation differ at token" in job.check(code=2)


PROBLEM = "What is 1 + 1?"


@pytest.fixture()
def rendered(tokenizer) -> Rendering:
    """As training renders the problem: prompt masked, completion with end of turn and eos scored."""
    messages = [{"role": "user", "content": PROBLEM}]
    prompt = tokenizer(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)).input_ids
    completion = tokenizer("<think>\nso\n</think>\n2<|im_end|>\n").input_ids + [tokenizer.eos_token_id]
    return Rendering(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def refused(tokenizer, rendering: Rendering) -> str:
    with pytest.raises(UsageError) as caught:
        check_tokens(tokenizer, rendering, PROBLEM)
    return str(caught.value)


def changed(rendering: Rendering, at: int, scored: bool) -> Rendering:
    flags = list(rendering.scored)
    flags[at] = scored
    return Rendering(rendering.ids, flags)


def test_masks_that_are_wrong_are_found(tokenizer, rendered):
    assert len(check_tokens(tokenizer, rendered, PROBLEM)) == 3
    last, first = len(rendered.ids) - 1, rendered.num_prompt
    assert refused(tokenizer, changed(rendered, last, False)).startswith(f"tokens: eos is masked at token {last}: ")
    assert f"the completion is masked at token {last - 3}" in refused(tokenizer, changed(rendered, last - 3, False))
    assert f"scoring begins at token {first - 1}" in refused(tokenizer, changed(rendered, first - 1, True))
    assert f"scoring begins at token {first + 1}" in refused(tokenizer, changed(rendered, first, False))


def test_a_trace_without_eos_is_found(tokenizer, rendered):
    cut = Rendering(rendered.ids[:-1], rendered.scored[:-1])
    assert "no eos at the end of the trace" in refused(tokenizer, cut)


def test_two_thoughts_are_found(tokenizer, rendered):
    thought = tokenizer("<think>").input_ids
    ids = rendered.ids[:-1] + thought + rendered.ids[-1:]
    doubled = Rendering(ids, rendered.scored + [True] * len(thought))
    assert "training has 2 <think>" in refused(tokenizer, doubled)


def without_thoughts(rows: list[dict]) -> list[dict]:
    for row in rows:
        for name in ("chosen", "rejected", "messages"):
            text = row[name][1]["content"].replace("<think>\n", "").replace("</think>", "")
            row[name] = [row[name][0], {"role": "assistant", "content": text}]
    return rows


def test_traces_without_thoughts_are_counted_and_noted(job):
    """As GSM8K's: there is nothing to force, and the prompts still agree."""
    rows = [job.on_disk(row) for row in make_pairs(8)]
    job.write_rows(without_thoughts(rows[:6]) + rows[6:])
    said = job.check()
    assert "note  12 of the 16 completions of the first rows have no <think>" in said
    assert "evaluate it with --force-think none --whole-responses" in said
    job.write_rows(without_thoughts(rows))
    said = job.check()
    assert "note  16 of the 16 completions" in said and "no <think>, no second system block" in said


def test_the_first_differing_token_is_shown_with_its_neighbours(tokenizer):
    assert first_difference([1, 2, 3, 4], [1, 2, 9]) == 2
    assert first_difference([1, 2, 3, 4], [1, 2]) is None  # evaluation goes on by generating
    assert first_difference([1], [1, 2]) == 1
    ids = tokenizer("a=b").input_ids
    assert around(tokenizer, ids, 1) == "'a' ['='] 'b'"
