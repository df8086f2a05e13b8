"""The vLLM back end, in an interpreter of its own, named by REDI_VLLM_PYTHON: vLLM's CPU build replaces packages."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from evaluation_fixtures import REPOSITORY, build_model, main, write_benchmark

VLLM_PYTHON = os.environ.get("REDI_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(VLLM_PYTHON).is_file(), reason="REDI_VLLM_PYTHON names no interpreter that has vLLM"),
]


def with_vllm(arguments: list[str]) -> None:
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [VLLM_PYTHON, str(REPOSITORY / "scripts" / "evaluate.py"), *arguments]
    subprocess.run(command, env=os.environ | environment, check=True, timeout=400)


def samples(folder: Path) -> dict:
    rows = [json.loads(line) for line in (folder / "generations.jsonl").open()]
    return {(row["id"], row["sample_idx"]): row for row in rows}


def test_greedy_answers_equal_those_of_transformers_and_a_cut_run_is_completed(tmp_path):
    model = build_model(tmp_path / "model", max_positions=256, hidden_size=128)  # vLLM has no heads smaller than 32
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    options = ["generate", "--model", str(model), "--benchmark", str(benchmark), "--n", "2", "--max-tokens", "24"]
    options += ["--temperature", "0", "--prompt", "bare", "--dtype", "float32"]
    main([*options, "--backend", "transformers", "--output", str(tmp_path / "transformers")])
    with_vllm([*options, "--backend", "vllm", "--output", str(tmp_path / "vllm")])
    expected = samples(tmp_path / "transformers")
    assert samples(tmp_path / "vllm") == expected
    assert {row["finish_reason"] for row in expected.values()} == {"stop", "length"}

    options[options.index("--temperature") + 1] = "0.9"
    sampled = [*options, "--backend", "vllm", "--output", str(tmp_path / "sampled")]
    with_vllm(sampled)
    generations = tmp_path / "sampled" / "generations.jsonl"
    kept = generations.read_text().splitlines(keepends=True)[:4]
    generations.write_text("".join(kept) + '{"benchmark": "sma')
    with_vllm(sampled)
    assert generations.read_text().startswith("".join(kept))
    rows = samples(tmp_path / "sampled")
    assert rows.keys() == expected.keys()
    assert len({row["response"] for row in rows.values()}) == len(rows)
