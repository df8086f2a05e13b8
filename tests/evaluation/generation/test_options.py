"""What the options of generation refuse."""

from argparse import ArgumentTypeError

import pytest
from helpers.evaluation import refusal

from redi.evaluation.generation.options import parse_shard


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
