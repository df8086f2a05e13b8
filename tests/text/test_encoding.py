"""What a conversation becomes under the chat templates of many families, and which rows are refused."""

import pytest
from helpers.templates import FAMILIES, OPENS_THOUGHT, PARTS, R1_OLD, family
from helpers.tiny import CHATML
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from redi.text.encoding import encode, split_row
from redi.text.prompts import make_prompt

TRACE = "<think>\n2 and 2 make 4.\n</think>\n\nIt is 4."
UNCLOSED = "<think>\nwait, is it 5"
TWICE = "<think>\na\n</think>\nb\n</think>\n\nc"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def encoded(tokenizer: PreTrainedTokenizerFast, content: str, problem: str = "What is 2 + 2?") -> tuple[str, str]:
    """The prompt and y, as text."""
    prompt_ids, ids = encode(tokenizer, [user(problem)], [assistant(content)])
    assert prompt_ids == make_prompt(tokenizer, problem, "bare")[1]  # evaluation asks the same
    return tokenizer.decode(prompt_ids), tokenizer.decode(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_y_is_the_trace_and_its_end_of_turn_with_exactly_one_eos(name):
    template, eos, end = FAMILIES[name]
    _, y = encoded(family(template, eos), TRACE)
    assert y.strip(" ") == TRACE + end and y.count(eos) == 1


@pytest.mark.parametrize("content", [UNCLOSED, TWICE, "e", "The end |", "x\N{SUPERSCRIPT TWO} \N{ANGSTROM SIGN}  y"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Qwen3"])
def test_any_content_is_trained_unchanged(name, content):
    template, eos, end = FAMILIES[name]
    assert encoded(family(template, eos), content)[1].strip(" ") == content + end


@pytest.mark.parametrize(
    "template, content, message",
    [
        (R1_OLD, TRACE, r"text unchanged: after '' it writes 'It is 4.*, not '<think>"),
        ("deepseek_r1_distill", TRACE, "does not continue its own generation prompt"),
        ("qwen3", UNCLOSED, r"after '<think>\\n' it writes '\\n</think>"),
        ("qwen3", TWICE, "text unchanged"),
        ("qwen3", "It is 4.", r"after '' it writes '<think>\\n\\n</think>"),
        ("gptoss", TRACE, "text unchanged"),
        ("glm4moe", TRACE, "text unchanged"),
        (PARTS, TRACE, "changes or drops the user's 'What is 2"),
        ("idefics3", TRACE, "changes or drops the user's"),
        (CHATML.replace("{{ m['content'] }}", "{{ m['content'] | lower }}"), TRACE, "changes or drops the user's"),
        (CHATML + "{{ raise_exception('no') }}", TRACE, "refuses the conversation: no"),
        ("{{ 'a' + none }}", TRACE, "refuses the conversation: "),
    ],
)
def test_templates_that_change_the_trace_are_refused_with_what_to_do(template, content, message):
    with pytest.raises(ValueError, match=message):
        encoded(family(template, "<|im_end|>"), content)


def test_a_template_may_open_the_thought_in_the_prompt():
    prompt, y = encoded(family(OPENS_THOUGHT, "<|im_end|>"), "<think>\nso\n</think>\n4")
    assert prompt.endswith("assistant\n<think>\n") and y == "so\n</think>\n4<|im_end|>"


def test_a_tokenizer_that_loses_text_is_refused():
    lossy = family(CHATML, "<|endoftext|>")
    encoded(lossy, "e\N{COMBINING ACUTE ACCENT}")
    lossy.backend_tokenizer.normalizer = normalizers.NFC()  # as Qwen's
    assert encoded(lossy, "e\N{COMBINING ACUTE ACCENT}")[1].startswith("\N{LATIN SMALL LETTER E WITH ACUTE}<")
    lossy.backend_tokenizer.normalizer = normalizers.NFKC()
    with pytest.raises(ValueError, match=r"the tokenizer loses text: 'x.*' becomes 'x2"):
        encoded(lossy, "x\N{SUPERSCRIPT TWO}")


@pytest.mark.parametrize("template, date", [("llama3_2", "26 Jul 2024"), ("gptoss", "2024-07-26")])
def test_the_date_of_a_template_is_always_the_same(template, date):
    prompt = make_prompt(family(template, "<|eot_id|>"), "What is 2 + 2?", "bare")[0]
    assert date in prompt


PARTS_OF_TEXT = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
LIST = "must be a list of messages"
ENDS = "must end with an assistant turn after a prompt"


@pytest.mark.parametrize(
    "kind, row, message",
    [
        ("positives", {"messages": None}, LIST),
        ("positives", {"messages": []}, LIST),
        ("positives", {"messages": user("x")}, LIST),
        ("positives", {"messages": '[{"role": "user"}]'}, LIST),
        ("positives", {"messages": [None]}, LIST),
        ("positives", {"messages": [{"from": "human", "value": "x"}]}, LIST),
        ("positives", {"messages": [user("x"), {"role": "assistant", "content": None}]}, LIST),
        ("positives", {"messages": [user("x"), PARTS_OF_TEXT]}, LIST),
        ("positives", {"messages": [user("x")]}, ENDS),
        ("positives", {"messages": [assistant("x")]}, ENDS),
        ("positives", {"messages": [assistant("x"), user("y")]}, ENDS),
        (
            "positives",
            {"messages": [user("x"), assistant("y") | {"reasoning_content": "z"}]},
            "has `reasoning_content`",
        ),
        ("pairs", {"chosen": "x", "rejected": "y"}, f"`chosen` {LIST}"),
        ("pairs", {"prompt": "x", "chosen": [assistant("y")], "rejected": [assistant("z")]}, ENDS),
        ("pairs", {"chosen": [user("x"), assistant("y")], "rejected": []}, f"`rejected` {LIST}"),
        (
            "pairs",
            {"chosen": [user("x"), assistant("y")], "rejected": [user("X"), assistant("y")]},
            "hold different prompts",
        ),
        (
            "pairs",
            {"prompt": [user("X")], "chosen": [user("x"), assistant("y")], "rejected": [user("x"), assistant("y")]},
            "hold different prompts",
        ),
        (
            "pairs",
            {
                "prompt": [user("x")],
                "chosen": [assistant("y"), user("z"), assistant("y")],
                "rejected": [assistant("z")],
            },
            f"`chosen` {ENDS}",
        ),
        ("traces", {"prompt": "x", "completion": [assistant("y"), user("z"), assistant("y")]}, ENDS),
        ("traces", {"prompt": None, "completion": "y"}, f"`prompt` {LIST}"),
        ("traces", {"prompt": "x", "completion": None}, f"`completion` {LIST}"),
    ],
)
def test_rows_of_another_shape_are_refused(kind, row, message):
    with pytest.raises(ValueError, match=message):
        split_row(row, kind)


def test_both_shapes_of_a_pair_and_of_a_trace_are_the_same_messages():
    prompt, chosen, rejected = [user("x")], [assistant("y")], [assistant("z")]
    expected = (prompt, [chosen, rejected])
    assert split_row({"prompt": prompt, "chosen": chosen, "rejected": rejected}, "pairs") == expected
    whole = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    assert split_row(whole, "pairs") == split_row({"prompt": "x", **whole}, "pairs") == expected
    assert split_row({"prompt": "x", "completion": "y"}, "traces") == (prompt, [chosen])
    assert split_row({"prompt": prompt, "completion": chosen}, "traces") == (prompt, [chosen])
    nulls = [{"role": "user", "content": "x", "tool_calls": None}, assistant("y")]
    assert split_row({"messages": nulls}, "positives") == (prompt, [chosen])
