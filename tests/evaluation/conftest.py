"""A tiny random model that all tests of evaluation share, and a small run of it."""

from pathlib import Path

import pytest
from helpers.evaluation import build_model, write_benchmark


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Not to be changed; a test that needs another copy builds it."""
    return build_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def command(tiny_model, tmp_path) -> list[str]:
    """`generate` for a small run, to which options are added; the model is at 2, the output at the end."""
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    return [
        *("generate", "--model", str(tiny_model), "--benchmark", str(benchmark), "--backend", "transformers"),
        *("--n", "3", "--max-tokens", "8", "--prompt", "bare", "--output", str(tmp_path / "out")),
    ]
