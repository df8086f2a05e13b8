"""Generation: prompts and stop tokens, batching, seeds and resuming, on a tiny random Qwen2."""

import json

import pytest
import torch
from evaluation_fixtures import build_model, build_tokenizer, main, write_benchmark
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from redi.evaluation.plan import make_batches
from redi.evaluation.prompts import encode_prompt, render_prompt, stop_token_ids, user_turn
from redi.evaluation.transformers_backend import choose, generate_tokens

PAPER_PROMPT = (
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    r"following format: 'Therefore, the final answer is: $\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
    "\n\nWhat is {1}?"
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder).eval()


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture
def command(model_folder, tmp_path):
    """The options of a small run, to which others are added."""
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    return [
        *("generate", "--model", str(model_folder), "--benchmark", str(benchmark), "--backend", "transformers"),
        *("--n", "3", "--max-tokens", "8", "--prompt", "bare", "--output", str(tmp_path / "out")),
    ]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_user_turn():
    assert user_turn("What is {1}?", "paper") == PAPER_PROMPT
    assert user_turn("What is {1}?", "bare") == "What is {1}?"


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


def test_batched_greedy_equals_one_by_one_and_transformers(model, tokenizer):
    """Left padding changes nothing, nor does dropping finished answers, nor the model's own generation config."""
    stops = tuple(stop_token_ids(tokenizer, None))
    prompts = [tuple(encode_prompt(tokenizer, "What is 1 + 2? " * (1 + 2 * i))) for i in range(6)]
    frequent = generate_tokens(model, prompts[:1], (), 24, 0, 1)[0][
        3
    ]  # as a stop token it ends answers at all lengths
    stops += (frequent,)
    together = generate_tokens(model, prompts, stops, 24, 0, 1)
    alone = [generate_tokens(model, [prompt], stops, 24, 0, 1)[0] for prompt in prompts]
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


def test_choose_draws_from_the_nucleus():
    """Probabilities .5 .3 .15 .05: a nucleus of .7 is the first two, drawn 5 to 3."""
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().expand(20_000, 4)
    torch.manual_seed(0)
    drawn = choose(logits, 1.0, 0.7).bincount(minlength=4) / 20_000
    assert drawn.tolist() == pytest.approx([0, 0.625, 0, 0.375], abs=0.015)
    drawn = choose(logits, 1.0, 1.0).bincount(minlength=4) / 20_000
    assert drawn.tolist() == pytest.approx([0.05, 0.5, 0.15, 0.3], abs=0.015)
    assert choose(logits[:2], 0, 0.7).tolist() == [1, 1]
    # at temperature .5 they are squared: .25 .09 .0225 .0025 of .365
    drawn = choose(logits, 0.5, 1.0).bincount(minlength=4) / 20_000
    assert drawn[1].item() == pytest.approx(0.25 / 0.365, abs=0.015)


def test_choose_widens_its_guess_in_a_large_vocabulary():
    torch.manual_seed(0)
    drawn = choose(torch.zeros(2_000, 8_192), 1.0, 0.5)  # the nucleus is 4096 tokens, more than are looked at first
    assert drawn.unique().numel() > 1_500


def test_a_small_run(command, tmp_path, model_folder):
    main(command)
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert sorted((row["id"], row["sample_idx"]) for row in rows) == [(f"p{i}", j) for i in range(5) for j in range(3)]
    assert {tuple(row) for row in rows} == {
        ("benchmark", "id", "sample_idx", "prompt", "response", "finish_reason", "num_tokens")
    }
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for row in rows:
        assert row["benchmark"] == "small"
        assert row["prompt"] == "<|im_start|>user\n" + "What is 1 + 2? " * (int(row["id"][1:]) + 1) + (
            "<|im_end|>\n<|im_start|>assistant\n"
        )
        assert row["finish_reason"] == ("length" if row["num_tokens"] == 8 else "stop") or row["num_tokens"] == 8
        assert not row["response"].endswith(("<|im_end|>", "<|endoftext|>"))
    assert {row["finish_reason"] for row in rows} >= {"length"}
    golds = rows_of(tmp_path / "out" / "benchmark.jsonl")
    assert golds[1] == {"benchmark": "small", "id": "p1", "problem": "What is 1 + 2? " * 2, "answer": "1"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["samples"] == 15
    assert manifest["config"]["stop_token_ids"] == stop_token_ids(tokenizer, None)


def test_a_stopped_run_goes_on_to_the_same_end(command, tmp_path, capsys):
    command += ["--batch-size", "4"]
    main(command)
    generations = tmp_path / "out" / "generations.jsonl"
    whole = generations.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"".join(lines[:9]) + lines[9][:40], b"".join(lines[:4]), b"", lines[0]):
        generations.write_bytes(cut)
        capsys.readouterr()
        main(command)
        assert generations.read_bytes() == whole
        assert ("half-written last line" in capsys.readouterr().err) == (bool(cut) and not cut.endswith(b"\n"))
    main(command)  # a finished run is left as it is
    assert generations.read_bytes() == whole


def test_the_seed_decides(command, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main([*command[:-1], str(tmp_path / name), "--seed", seed])
    a, b, c = (rows_of(tmp_path / name / "generations.jsonl") for name in "abc")
    assert a == b != c
    assert len({row["response"] for row in a if row["id"] == "p0"}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--temperature", "1"], "was begun with temperature 0.6, now it is 1.0"),
        (["--n", "4"], "was begun with n 3, now it is 4"),
        (["--prompt", "paper"], 'was begun with prompt "bare", now it is "paper"'),
        (["--batch-size", "2"], "was begun with batch_size 256, now it is 2"),
    ],
)
def test_other_options_in_the_same_folder_are_refused(command, capsys, change, message):
    main(command)
    with pytest.raises(SystemExit) as stop:
        main(command + change)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_another_model_in_the_same_folder_is_refused(command, tmp_path, capsys):
    main(command)
    other = build_model(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit):
        main([*command[:2], str(other), *command[3:]])
    assert "model_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "no/such/folder"], "--model no/such/folder: no such folder"),
        (["--benchmark", "math50"], "did you mean 'math500'?"),
        (["--benchmark", "math500"], "put there a JSONL file of 500 rows"),
        (["--top-p", "0"], "--top-p 0.0 must be above 0"),
        (["--n", "0"], "--n 0 must be at least 1"),
        (["--max-token", "5"], "unknown option '--max-token'"),
        (["--output", "."], "exists and holds no generations"),
        (["--backend", "vllm", "--batch-size", "5"], "--batch-size is for --backend transformers"),
    ],
)
def test_bad_options_are_one_line(command, capsys, monkeypatch, tmp_path, change, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command + change)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "problem": "p"', "line 2: not valid JSON"),
        ('{"id": "x", "problem": "p"}', "line 2: no 'answer'"),
        ('{"id": "x", "problem": "p", "answer": 5}', "row 2: 'answer' must be text"),
        ('{"id": "p0", "problem": "p", "answer": "5"}', "row 2: id 'p0' occurs twice"),
    ],
)
def test_bad_benchmarks_name_the_line(command, capsys, tmp_path, line, message):
    write_benchmark(tmp_path / "small.jsonl", 1)
    with (tmp_path / "small.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(SystemExit):
        main(command)
    assert message in capsys.readouterr().err


def test_answers_are_cut_to_the_models_positions(tmp_path, capsys):
    model = build_model(tmp_path / "model", max_positions=40)
    benchmark = write_benchmark(tmp_path / "small.jsonl", 1)
    command = ["generate", "--model", str(model), "--benchmark", str(benchmark), "--backend", "transformers"]
    command += ["--temperature", "0", "--prompt", "bare", "--n", "1", "--output", str(tmp_path / "out")]
    main(command)
    tokenizer = AutoTokenizer.from_pretrained(model)
    (row,) = rows_of(tmp_path / "out" / "generations.jsonl")
    room = 40 - len(encode_prompt(tokenizer, render_prompt(tokenizer, "What is 1 + 2? ", "bare")))
    assert row["num_tokens"] == room or row["finish_reason"] == "stop"
    assert capsys.readouterr().err.count("note: --max-tokens 32768 is cut") == 1
    write_benchmark(benchmark, 5)
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "other")])
    assert "small 'p4': its prompt of" in capsys.readouterr().err


def test_batches_put_the_longest_prompts_first():
    class Request:
        def __init__(self, length):
            self.token_ids = (0,) * length

    short, long = Request(2), Request(9)
    assert make_batches([short, long], n=2, batch_size=3) == [((long, 0), (long, 1), (short, 0)), ((short, 1),)]
    assert make_batches([short, long], n=2, batch_size=None) == [((long, 0), (long, 1)), ((short, 0), (short, 1))]
