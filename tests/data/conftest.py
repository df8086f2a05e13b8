"""Corpora and what is built from them, made once for the tests of this room."""

from pathlib import Path

import pytest
from helpers.corpus import run, write_corpus
from transformers import AutoTokenizer


@pytest.fixture
def corpus(tmp_path) -> Path:
    """The corpus of helpers.corpus, the only file in a folder that the test may write into."""
    return write_corpus(tmp_path / "raw.parquet")


@pytest.fixture(scope="session")
def gsm8k(shared) -> Path:
    """1,319 problems with 4 real generations each."""
    return shared / "corpora" / "gsm8k_traces.parquet"


@pytest.fixture(scope="session")
def gsm8k_positives(gsm8k, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gsm8k") / "positives"
    run("build_positives", "--input", gsm8k, "--output", folder, "--expect-rows", 887)
    return folder


@pytest.fixture(scope="session")
def gsm8k_pairs(gsm8k, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gsm8k") / "pairs"
    run("build_pairs", "--input", gsm8k, "--output", folder, "--expect-rows", 731)
    return folder


@pytest.fixture(scope="session")
def trained_tokenizer(model_path):
    return AutoTokenizer.from_pretrained(model_path)
