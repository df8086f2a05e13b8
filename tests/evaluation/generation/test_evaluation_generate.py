"""Generation: batching, random numbers, what is written, and bad input, on a tiny random Qwen2."""

import json

import pytest
import torch
from helpers.evaluation import build_model, main, rows_of, write_benchmark
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from redi.evaluation.generation.transformers_backend import BLOCK, choose, draw, generate_tokens
from redi.text.prompts import encode_prompt, make_prompt, stop_token_ids


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


def test_a_small_run(command, tmp_path, model_folder):
    main(command)
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert sorted((row["id"], row["sample_idx"]) for row in rows) == [(f"p{i}", j) for i in range(5) for j in range(3)]
    assert {tuple(row) for row in rows} == {
        ("benchmark", "id", "sample_idx", "prompt", "response", "finish_reason", "num_tokens", "key")
    }
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for row in rows:
        assert row["benchmark"] == "small"
        assert row["prompt"] == "<|im_start|>user\n" + "What is 1 + 2? " * (int(row["id"][1:]) + 1) + (
            "<|im_end|>\n<|im_start|>assistant\n"
        )
        assert row["finish_reason"] == "stop" or row["num_tokens"] == 8
        assert not row["response"].endswith(("<|im_end|>", "<|endoftext|>"))
    assert {row["finish_reason"] for row in rows} >= {"length"}
    golds = rows_of(tmp_path / "out" / "benchmark.jsonl")
    assert golds[1] == {"benchmark": "small", "id": "p1", "problem": "What is 1 + 2? " * 2, "answer": "1"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["samples"] == 15
    assert manifest["config"]["stop_token_ids"] == stop_token_ids(tokenizer, None)


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
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size is for --backend vllm"),
        (["--base-url", "http://localhost"], "--base-url is for --backend openai"),
        (["--backend", "openai"], "--backend openai needs --base-url"),
        (["--backend", "openai", "--api", "chat", "--force-think"], "--force-think as-trained cannot be used with"),
        (["--shard", "0/4"], "--shard 0/4 must be i/n with i from 1 to n"),
        (["--chat-template", "chatlm"], "did you mean 'chatml'?"),
        (["--revision", "main"], "--revision main is for a Hub id"),
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
    ("missing", "message"),
    [
        ("config.json", "is no model: it has no config.json"),
        ("model.safetensors", "has no weights (*.safetensors) in it"),
        ("tokenizer.json", "has no tokenizer in it"),
    ],
)
def test_a_folder_that_is_no_model_is_one_line(command, capsys, tmp_path, missing, message):
    command[2] = str(build_model(tmp_path / "model"))
    (tmp_path / "model" / missing).unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_cut_off_or_an_adapter_are_one_line(command, capsys, tmp_path):
    command[2] = str(build_model(tmp_path / "model"))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SystemExit):
        main(command)
    assert "model.safetensors is damaged or cut off" in capsys.readouterr().err
    (tmp_path / "model" / "config.json").rename(tmp_path / "model" / "adapter_config.json")
    with pytest.raises(SystemExit):
        main(command)
    assert "is a LoRA adapter; merge it" in capsys.readouterr().err


def test_a_model_of_the_hub_is_known_by_its_commit(command, tmp_path, monkeypatch):
    """From the Hub's cache, as it lies on the disk after a download."""
    commit, cache = "c" * 40, tmp_path / "hub" / "models--owner--tiny"
    build_model(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    command[2] = "owner/tiny"
    main(command)
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert config["model_sha256"] == f"hub:owner/tiny@{commit}"
    main([*command, "--revision", commit])  # the same model, so that nothing is left to do
    assert len(rows_of(tmp_path / "out" / "generations.jsonl")) == 15


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
    room = 40 - len(make_prompt(tokenizer, "What is 1 + 2? ", "bare")[1])
    assert row["num_tokens"] == room or row["finish_reason"] == "stop"
    assert capsys.readouterr().err.count("note: --max-tokens 32768 is cut") == 1
    write_benchmark(benchmark, 5)
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "other")])
    assert "small 'p2': its prompt of 44 tokens does not fit" in capsys.readouterr().err
