"""Under the chat templates of the families, training and evaluation read the same prompt, and the trace is whole."""

import json

import pytest
from datasets import Dataset
from helpers.templates import FAMILIES, MISTRAL, MISTRAL_V3, OPENS_THOUGHT_TWICE, R1_OLD, family, with_bos
from helpers.tiny import CHATML

from redi.evaluation.benchmarks import load_benchmark
from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import SamplingModel, make_prompts
from redi.runs.errors import UsageError
from redi.text.encoding import THINK, template_notes
from redi.text.prompts import make_prompt, stop_token_ids
from redi.text.training_rows import prepare_rows

PROBLEM = "What is 2 + 2?"
CHOSEN, REJECTED = "<think>\n2 and 2 make 4.\n</think>\n\nIt is 4.", "<think>\nno\n</think>\n\n5"
WRITES_BOS = ("Llama", "Mistral", "Gemma", "R1")


def rows(problem: str = PROBLEM, system: str | None = None) -> Dataset:
    prompt = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": problem}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (CHOSEN, REJECTED))
    return Dataset.from_list([{"prompt": prompt, "chosen": chosen, "rejected": rejected, "messages": prompt + chosen}])


def prompts_of(tokenizer, folder, **options):
    """What every back end is given for the problem."""
    (folder / "b.jsonl").write_text(json.dumps({"id": 1, "problem": PROBLEM, "answer": "4"}) + "\n")
    model = SamplingModel("m", "m", tokenizer)
    return make_prompts(
        [load_benchmark(str(folder / "b.jsonl"))], model, SamplingOptions(prompt="bare", **options), {}
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_evaluation_read_the_same_tokens(name, tmp_path, capsys):
    template, eos, end = FAMILIES[name]
    tokenizer = with_bos(family(template, eos)) if name.startswith(WRITES_BOS) else family(template, eos)
    positive = prepare_rows(rows(), ("positives",), tokenizer, None)[0][0]
    pair = prepare_rows(rows(), ("pairs",), tokenizer, None)[0][0]
    prompt, ids = pair["prompt_ids"], positive["input_ids"]
    assert ids == prompt + pair["chosen_ids"] and positive["labels"] == [-100] * len(prompt) + pair["chosen_ids"]
    for side, text in (("chosen_ids", CHOSEN), ("rejected_ids", REJECTED)):
        assert tokenizer.decode(pair[side]).lstrip(" ") == text + end
    (evaluated,), (forced,) = (prompts_of(tokenizer, tmp_path, force_think=force) for force in ("none", "as-trained"))
    assert list(evaluated.token_ids) == prompt
    assert list(forced.token_ids) == ids[: len(forced.token_ids)] and forced.text.endswith(THINK)
    begins = [ids[:1], list(forced.token_ids[:1])]
    assert (
        begins == 2 * [[tokenizer.bos_token_id]] if name.startswith(WRITES_BOS) else "<s>" not in tokenizer.decode(ids)
    )
    assert tokenizer.decode(ids).count("<s>") == name.startswith(WRITES_BOS)
    # Generation ends at the first token that the model learnt after the text.
    ends = [token for token in pair["chosen_ids"] if token in stop_token_ids(tokenizer, None)]
    assert ends and tokenizer.decode(pair["chosen_ids"]).partition(tokenizer.decode(ends[:1]))[0].lstrip(" ") == CHOSEN
    assert "begins a text with" not in "".join(capsys.readouterr())


def test_a_template_without_the_bos_of_its_tokenizer_is_reported(tmp_path, capsys):
    tokenizer = with_bos(family(CHATML, "<|im_end|>"))
    said = "the tokenizer begins a text with '<s>', but the chat template does not write it"
    prepare_rows(rows(), ("pairs",), tokenizer, None, name="d")
    assert f"d: {said}" in capsys.readouterr().out
    prompts = prompts_of(tokenizer, tmp_path)
    assert f"note: {said}" in capsys.readouterr().err
    assert template_notes(family(CHATML, "<|im_end|>"), prompts[0].token_ids) == []
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    assert template_notes(tokenizer, prompts_of(tokenizer, tmp_path)[0].token_ids) == []


def test_evaluation_reports_the_date_of_a_template(tmp_path, capsys):
    prompts_of(family("llama3_2", "<|eot_id|>"), tmp_path)
    assert "note: the chat template writes today's date: it is 2024-07-26" in capsys.readouterr().err


REMEDY = "prepare_base_model.py --chat-template NAME$"


@pytest.mark.parametrize(
    "template, system, message",
    [
        (MISTRAL, "Be brief.", "refuses the conversation: conversation roles must alternate user/assistant; .*"),
        ("gemma", "Be brief.", "refuses the conversation: System role not supported; .*"),
        (MISTRAL_V3, "Be brief.", "does not continue its own generation prompt: .*"),
        ("deepseek_r1_distill", None, "does not continue its own generation prompt: .*"),
        (R1_OLD, None, "does not leave the assistant's text unchanged: .*"),
        (OPENS_THOUGHT_TWICE, None, "opens a thought that the assistant's text opens too; .*"),
        ("{{ bos_token }}" + MISTRAL, None, "writes '<s>' twice; .*"),
    ],
)
def test_rows_that_a_template_cannot_train_are_refused_with_what_to_do(template, system, message):
    with pytest.raises(UsageError, match=f"row 0 of the dataset: the .*template {message}{REMEDY}"):
        prepare_rows(rows(system=system), ("pairs",), family(template, "</s>"), None)


def test_thoughts_of_earlier_turns_are_left_out_alike():
    tokenizer = family("qwen3", "<|im_end|>")
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}]
    row = rows()[0]
    pair = prepare_rows(Dataset.from_list([row | {"prompt": before + row["prompt"]}]), ("pairs",), tokenizer, None)[0][
        0
    ]
    assert "hm" not in tokenizer.decode(pair["prompt_ids"])
    assert tokenizer.decode(pair["chosen_ids"]) == CHOSEN + "<|im_end|>"


@pytest.mark.parametrize("template", ["{{ bos_token }}" + MISTRAL, "{{ raise_exception('no') }}"])
def test_evaluation_refuses_a_template_with_what_to_do(template):
    with pytest.raises(UsageError, match=f"^--model: the chat template .*{REMEDY}"):
        make_prompt(family(template, "</s>"), PROBLEM, "bare")


def test_a_template_that_refuses_an_assistants_turn_is_one_line():
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    with pytest.raises(UsageError, match="^--model: the chat template refuses the conversation: no; use another"):
        stop_token_ids(family(template, "</s>"), None)
