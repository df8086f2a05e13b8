"""vLLM in a separate interpreter, named by REDI_VLLM_PYTHON, since its CPU build needs other packages.

setup_vllm.sh makes one. Offline with one engine and with two, as a server for the openai back end, and through `run`.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.evaluation import REPOSITORY, build_model, main, rows_of, write_benchmark

VLLM_PYTHON = os.environ.get("REDI_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(VLLM_PYTHON).is_file(),
        reason="REDI_VLLM_PYTHON does not name an interpreter with vLLM",
    ),
]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(REPOSITORY), "VLLM_NO_USAGE_STATS": "1"}


def with_vllm(*arguments: str) -> str:
    command = [VLLM_PYTHON, str(REPOSITORY / "scripts" / "evaluate.py"), *arguments]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def samples(folder: Path) -> dict:
    """The rows by problem and index, without their keys, which name the engine."""
    rows = rows_of(folder / "generations.jsonl")
    return {(row["id"], row["sample_idx"]): {**row, "key": None} for row in rows}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("vllm")
    model = build_model(folder / "model", max_positions=256, hidden_size=128)  # vLLM has no heads smaller than 32
    benchmark = write_benchmark(folder / "small.jsonl")
    options = ["generate", "--model", str(model), "--benchmark", str(benchmark), "--n", "2", "--max-tokens", "24"]
    return [*options, "--prompt", "bare", "--force-think"]


@pytest.fixture(scope="module")
def greedy(options, tmp_path_factory) -> dict:
    """What transformers answers at temperature 0: some answers end in a stop token, some do not."""
    folder = tmp_path_factory.mktemp("greedy") / "out"
    main([*options, "--temperature", "0", "--backend", "transformers", "--dtype", "float32", "--output", str(folder)])
    expected = samples(folder)
    assert {row["finish_reason"] for row in expected.values()} == {"stop", "length"}
    assert all(row["prompt"].endswith("<|im_start|>assistant\n<think>\n") for row in expected.values())
    return expected


def test_greedy_answers_of_two_engines_equal_those_of_transformers(options, greedy, tmp_path):
    sampling = ["--temperature", "0", "--dtype", "float32", "--backend", "vllm", "--data-parallel-size", "2"]
    with_vllm(*options, *sampling, "--output", str(tmp_path / "out"))
    assert samples(tmp_path / "out") == greedy


def test_a_cut_run_is_completed_and_added_to(options, tmp_path):
    sampling = ["--temperature", "0.9", "--dtype", "float32", "--backend", "vllm", "--output", str(tmp_path / "out")]
    with_vllm(*options, *sampling)
    generations = tmp_path / "out" / "generations.jsonl"
    kept = "".join(generations.read_text().splitlines(keepends=True)[:4])
    generations.write_text(kept + '{"benchmark": "sma')
    assert "25 samples" in with_vllm(*options, *sampling, "--n", "5")
    assert generations.read_text().startswith(kept)
    rows = samples(tmp_path / "out")
    assert rows.keys() == {(f"p{problem}", index) for problem in range(5) for index in range(5)}
    long = [row["response"] for row in rows.values() if row["num_tokens"] > 4]
    assert len(long) > 15 and len(set(long)) == len(long)  # no random numbers were used twice


@pytest.fixture(scope="module")
def server(options, tmp_path_factory) -> Iterator[str]:
    """`vllm serve` of the model, with a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs. The command itself asks for a package named vllm, and the CPU build has another name.
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", options[2], "--port", str(port)]
    command += [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "256",
        "--api-key",
        "secret",
        "--host",
        "127.0.0.1",
    ]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=stream, stderr=stream)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.time() + 300
    while process.poll() is None and time.time() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise AssertionError(log.read_text())


def test_greedy_answers_of_a_server_equal_those_of_transformers(
    options, greedy, server, tmp_path, monkeypatch, capsys
):
    sampling = ["--temperature", "0", "--backend", "openai", "--base-url", server, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*options, *sampling])
    assert "refuses the key; set OPENAI_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    main([*options, *sampling])
    assert samples(tmp_path / "out") == greedy
    main([*options, *sampling, "--n", "3"])
    assert len(samples(tmp_path / "out")) == 15
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["base_url"] == server


def test_a_model_is_sampled_graded_and_reported_by_one_command(options, tmp_path):
    """Sampling in a child process, then the rest in the parent."""
    model, benchmark = options[2], options[4]
    run = ["run", model, "--benchmark", benchmark, "--n", "1", "--max-tokens", "24", "--prompt", "bare"]
    assert "report: " in with_vllm(*run, "--dtype", "float32", "--output", str(tmp_path))
    (graded,) = tmp_path.rglob("graded.jsonl")
    assert len(rows_of(graded)) == 5
