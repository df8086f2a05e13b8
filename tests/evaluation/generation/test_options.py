"""The options of generation: what they refuse; protocols, which set their defaults, and what was changed of them."""

import json
from argparse import ArgumentTypeError

import pytest
from helpers.evaluation import main, refusal, rows_of, write_benchmark

from redi.evaluation.generation.options import PROTOCOL_FOLDER, parse_shard, read_protocol
from redi.evaluation.options import parse

SYSTEM = "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
PAPER = {"temperature": 0.6, "top_p": 0.95, "prompt": "paper"}
PROTOCOLS = {
    "paper_final": {"benchmark": ["math500", "aime24", "amc23", "minerva", "olympiadbench"], "n": 16}
    | {**PAPER, "max_tokens": 30720, "force_think": "as-trained"},
    "paper_intermediate": {"benchmark": ["math500"], "n": 4, **PAPER, "max_tokens": 32768, "force_think": "none"},
    "quick": {"benchmark": ["amc23"], "n": 4, **PAPER, "max_tokens": 8192, "force_think": "as-trained"},
    "quickstart": {"benchmark": ["runs/quickstart/task/digits.jsonl"], "n": 4, **PAPER, "max_tokens": 80}
    | {"prompt": "bare", "force_think": "none", "seed": 0},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "no/such/folder"], "--model no/such/folder is not a folder, and not a Hub id"),
        (["--top-p", "0"], "--top-p 0.0 must be above 0"),
        *((["--temperature", value], f"--temperature: {value} is not a finite number") for value in ("nan", "inf")),
        (["--temperature=-inf"], "--temperature: -inf is not a finite number"),
        (["--top-p", "nan"], "--top-p: nan is not a finite number"),
        (["--temperature", "1e-320"], "--temperature 1e-320 must be 0 (greedy) or at least 1e-05"),
        (["--temperature", "-1"], "--temperature -1.0 must be 0"),
        (["--limit", "0"], "--limit: '0' is not a whole number above 0"),
        (["--n", "0"], "--n: '0' is not a whole number above 0"),
        (["--max-token", "5"], "unknown option '--max-token'"),
        (["--output", "."], "exists and holds no samples"),
        (["--backend", "vllm", "--batch-size", "5"], "--batch-size is for --backend transformers"),
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size is for --backend vllm"),
        (["--base-url", "http://localhost"], "--base-url is for --backend openai"),
        (["--backend", "openai"], "--backend openai needs --base-url"),
        (["--backend", "openai", "--api", "chat", "--force-think"], "--force-think as-trained cannot be used with"),
        (["--shard", "0/4"], "--shard: 0/4 must be i/n with i from 1 to n"),
        (["--chat-template", "chatlm"], "did you mean 'chatml'?"),
    ],
)
def test_bad_options_are_one_line(command, capsys, monkeypatch, tmp_path, change, message):
    monkeypatch.chdir(tmp_path)
    error = refusal(command + change, capsys)
    assert message in error and error.count("\n") == 1


def test_shard_option():
    assert parse_shard("2/4") == (2, 4)
    for text in ("0/4", "5/4", "2", "2/", "-1/4", "a/b"):
        with pytest.raises(ArgumentTypeError, match="must be i/n with i from 1 to n"):
            parse_shard(text)


def test_the_protocols():
    assert {path.stem for path in PROTOCOL_FOLDER.glob("*.yaml")} == PROTOCOLS.keys()
    for name, values in PROTOCOLS.items():
        assert read_protocol(name) == values


def test_the_command_line_overrides_a_protocol(tmp_path):
    generate = ["generate", "--model", "x", "--output", "y"]
    options = vars(parse([*generate, "--n", "2", "--protocol", "paper_final", "--top-p", "1"], ""))
    expected = PROTOCOLS["paper_final"] | {"n": 2, "top_p": 1}
    assert {name: options[name] for name in expected} == expected
    assert parse(generate, "").benchmark == [] and parse(generate, "").protocol is None


@pytest.fixture
def bare_command(tiny_model, tmp_path) -> list[str]:
    """`generate` without any option that a protocol sets, except the benchmark."""
    benchmark = write_benchmark(tmp_path / "small.jsonl", 2)
    command = ["generate", "--model", str(tiny_model), "--benchmark", str(benchmark), "--backend", "transformers"]
    return [*command, "--output", str(tmp_path / "out")]


def test_a_protocol_and_what_was_changed_of_it_are_recorded(bare_command, tmp_path):
    main([*bare_command, "--protocol", "paper_final", "--n", "1", "--max-tokens", "4", "--temperature", "0.6"])
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    expected = {"n": 1, "temperature": 0.6, "top_p": 0.95, "max_tokens": 4, "prompt": "paper"}
    expected |= {"force_think": "as-trained", "seed": 42, "protocol": "paper_final (changed: n, max_tokens)"}
    assert {name: config[name] for name in expected} == expected
    for row in rows_of(tmp_path / "out" / "generations.jsonl"):
        assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")


def test_a_protocol_from_a_file(bare_command, tmp_path):
    protocol = tmp_path / "mine.yaml"
    protocol.write_text("n: 2\nmax_tokens: 3\nprompt: bare\nchat_template: qwen2.5-math\ntemperature: 0\n")
    main([*bare_command, "--protocol", str(protocol)])
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert len(rows) == 4 and all(row["prompt"].startswith(SYSTEM) and row["num_tokens"] <= 3 for row in rows)
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["protocol"] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature: 1", "unknown option '--temprature'; did you mean '--temperature'?"),
        ("backend: vllm", "mine.yaml: unknown option '--backend'"),
        ("n: many", "mine.yaml: argument --n: 'many' is not a whole number above 0"),
        ("prompt: long", "mine.yaml: argument --prompt: invalid choice: 'long'"),
        ("temperature: .nan", "mine.yaml: argument --temperature: nan is not a finite number"),
        ("n: [", "is not valid YAML"),
        ("n:", "mine.yaml: argument --n: 'None' is not a whole number above 0"),
        ("- n: 1", "must hold `key: value` lines"),
        ("n: 1\nn: 2", "the key 'n' is given twice"),
    ],
)
def test_bad_protocols_are_one_line(bare_command, tmp_path, capsys, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    error = refusal([*bare_command, "--protocol", str(tmp_path / "mine.yaml")], capsys)
    assert message in error and error.count("\n") == 1


def test_unknown_protocols_and_missing_benchmarks_are_one_line(bare_command, capsys):
    for arguments, message in (
        (
            ["--protocol", "paper"],
            "is neither a file nor a known name (paper_final, paper_intermediate, quick, ",
        ),
        (["--protocol", "paper_finel"], "did you mean 'paper_final'?"),
        (["--benchmark"], "argument --benchmark: expected at least one argument"),
    ):
        assert message in refusal(bare_command + arguments, capsys)
    without = bare_command[:3] + bare_command[5:]
    assert "--benchmark or a --protocol that names benchmarks is required" in refusal(without, capsys)
