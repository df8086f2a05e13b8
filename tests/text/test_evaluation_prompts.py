"""What a model is asked, byte for byte, where its answer ends, and the protocols that set the options."""

import json
from pathlib import Path

import pytest
from helpers.evaluation import REPOSITORY, build_model, build_tokenizer, main, rows_of, write_benchmark
from transformers import AutoTokenizer, GenerationConfig

from redi.evaluation.generation.options import PROTOCOL_FOLDER, expand_protocol
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
def tokenizer(tmp_path_factory):
    """As users load it, with Qwen2.5-Math's template."""
    tokenizer = AutoTokenizer.from_pretrained(build_model(tmp_path_factory.mktemp("model")))
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
    tokenizer = build_tokenizer(["a"])
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
    tokenizer = build_tokenizer(["a"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert stop_token_ids(tokenizer, None) == [tokenizer.eos_token_id]


PROTOCOLS = {
    "paper_final": ["--benchmark", "math500", "aime24", "amc23", "minerva", "olympiadbench", "--n=16"]
    + ["--temperature=0.6", "--top-p=0.95", "--max-tokens=30720", "--prompt=paper", "--force-think=as-trained"],
    "paper_intermediate": ["--benchmark", "math500", "--n=4", "--temperature=0.6", "--top-p=0.95"]
    + ["--max-tokens=32768", "--prompt=paper", "--force-think=none"],
    "quick": ["--benchmark", "amc23", "--n=4", "--temperature=0.6", "--top-p=0.95", "--max-tokens=8192"]
    + ["--prompt=paper", "--force-think=as-trained"],
}


def test_protocols_stand_before_the_command_line():
    assert {path.stem for path in PROTOCOL_FOLDER.glob("*.yaml")} == PROTOCOLS.keys()
    for name, arguments in PROTOCOLS.items():
        assert expand_protocol(["--n", "2", "--protocol", name]) == [*arguments, "--n", "2", "--protocol", name]
    assert expand_protocol(["--n", "2"]) == ["--n", "2"]


@pytest.fixture
def command(tmp_path):
    model = build_model(tmp_path / "model")
    benchmark = write_benchmark(tmp_path / "small.jsonl", 2)
    command = ["generate", "--model", str(model), "--benchmark", str(benchmark), "--backend", "transformers"]
    return [*command, "--output", str(tmp_path / "out")]


def test_a_protocol_and_what_was_changed_of_it_are_recorded(command, tmp_path):
    main([*command, "--protocol", "paper_final", "--n", "1", "--max-tokens", "4", "--temperature", "0.6"])
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    expected = {"n": 1, "temperature": 0.6, "top_p": 0.95, "max_tokens": 4, "prompt": "paper"}
    expected |= {"force_think": "as-trained", "seed": 42, "protocol": "paper_final (changed: n, max_tokens)"}
    assert {name: config[name] for name in expected} == expected
    for row in rows_of(tmp_path / "out" / "generations.jsonl"):
        assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")


def test_a_protocol_of_ones_own(command, tmp_path):
    protocol = tmp_path / "mine.yaml"
    protocol.write_text("n: 2\nmax_tokens: 3\nprompt: bare\nchat_template: qwen2.5-math\ntemperature: 0\n")
    main([*command, "--protocol", str(protocol)])
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert len(rows) == 4 and all(row["prompt"].startswith(SYSTEM) and row["num_tokens"] <= 3 for row in rows)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["protocol"] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature: 1", "unknown key 'temprature'; did you mean 'temperature'?"),
        ("backend: vllm", "unknown key 'backend'"),
        ("n: many", "mine.yaml: argument --n: invalid int value: 'many'"),
        ("prompt: long", "mine.yaml: argument --prompt: invalid choice: 'long'"),
        ("n: [", "is not valid YAML"),
        ("n:", "must hold `key: value` lines"),
    ],
)
def test_bad_protocols_are_one_line(command, tmp_path, capsys, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([*command, "--protocol", str(tmp_path / "mine.yaml")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_unknown_protocols_and_missing_benchmarks_are_one_line(command, capsys):
    for arguments, message in (
        (["--protocol", "paper"], "is neither a file nor a known name (paper_final, paper_intermediate, quick)"),
        (["--protocol", "paper_finel"], "did you mean 'paper_final'?"),
        (["--benchmark"], "argument --benchmark: expected at least one argument"),
    ):
        with pytest.raises(SystemExit):
            main(command + arguments)
        assert message in capsys.readouterr().err
    without = command[:3] + command[5:]
    with pytest.raises(SystemExit):
        main(without)
    assert "--benchmark or a --protocol that names benchmarks is required" in capsys.readouterr().err


def test_a_template_is_needed_and_can_be_given(tmp_path, command, capsys):
    model = Path(command[2])
    (model / "chat_template.jinja").unlink()
    with pytest.raises(SystemExit):
        main([*command, "--n", "1", "--max-tokens", "2"])
    error = capsys.readouterr().err
    assert "has no chat template; pass --chat-template with a .jinja file or a name (chatml, " in error
    template = str(REPOSITORY / "configs" / "chat_templates" / "chatml.jinja")
    main([*command, "--n", "1", "--max-tokens", "2", "--chat-template", template, "--prompt", "bare"])
    prompts = {row["prompt"] for row in rows_of(tmp_path / "out" / "generations.jsonl")}
    assert f"<|im_start|>user\n{'What is 1 + 2? ' * 2}<|im_end|>\n<|im_start|>assistant\n" in prompts
    assert not (model / "chat_template.jinja").exists()  # the checkpoint is left as it is


def test_as_published_is_for_chatml(command, capsys):
    Path(command[2], "chat_template.jinja").write_text("{{ messages[0]['content'] }} Answer:")
    with pytest.raises(SystemExit):
        main([*command, "--force-think", "as-published"])
    assert "this one's end in " in capsys.readouterr().err
