"""Generation through the command line, on a tiny random Qwen2: what is written, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.evaluation import REPOSITORY, build_model, main, rows_of, text_of, write_benchmark
from transformers import AutoTokenizer

from redi.text.prompts import make_prompt, read_chat_template, stop_token_ids


def test_a_small_run(command, tiny_model, tmp_path):
    main(command)
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert sorted((row["id"], row["sample_idx"]) for row in rows) == [(f"p{i}", j) for i in range(5) for j in range(3)]
    assert {tuple(row) for row in rows} == {
        ("benchmark", "id", "sample_idx", "prompt", "response", "finish_reason", "num_tokens", "key")
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
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
    assert "small 'p2': its prompt of 43 tokens does not fit" in capsys.readouterr().err


def test_the_seed_decides(command, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main([*command[:-1], str(tmp_path / name), "--seed", seed])
    a, b, c = (rows_of(tmp_path / name / "generations.jsonl") for name in "abc")
    assert a == b != c
    assert len({row["response"] for row in a if row["id"] == "p0"}) > 1


def test_the_date_of_a_template_is_fixed_said_and_recorded(command, tmp_path, capsys):
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}\n" + read_chat_template("chatml"))
    main([*command, "--n", "1", "--chat-template", str(template)])
    assert "writes today's date: it is 2024-07-26, in training and in evaluation" in capsys.readouterr().err
    assert all("26 Jul 2024" in row["prompt"] for row in rows_of(tmp_path / "out" / "generations.jsonl"))
    main(["grade", "--input", str(tmp_path / "out")])  # which keeps what the manifest says
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["template_date"] == "2024-07-26"
    main([*command[:-1], str(tmp_path / "undated"), "--n", "1"])
    assert "template_date" not in json.loads((tmp_path / "undated" / "manifest.json").read_text())


def test_a_killed_run_keeps_all_but_the_batch_in_flight(command, tmp_path):
    command += ["--n", "40", "--max-tokens", "100", "--batch-size"]
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), *command, "2"])
    generations = tmp_path / "out" / "generations.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and not (generations.is_file() and generations.read_bytes().count(b"\n") >= 6):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = generations.read_bytes()
    assert 6 <= kept.count(b"\n") < 200 and not (tmp_path / "out" / "manifest.json").exists()
    main([*command, "200"])
    assert generations.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert len(text_of(tmp_path / "out")) == 200
