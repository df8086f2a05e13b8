"""A tiny Qwen2 with a ChatML template like Qwen2.5-Math's, made locally: no hub, no pretrained weights."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if os.environ.get("REDI_TEST_GPU") != "1":  # the other tests compare with float32 on the CPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from a second thread, and wait for it

import pytest
from datasets import Dataset
from helpers.paths import SHARED
from helpers.tiny import make_model, make_pairs, make_tokenizer

# Renders what Qwen2.5-Math's template renders: a default system block once, and "<|im_end|>\n" after every turn.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: where several processes share the tests, none is left alone with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: real corpora and benchmarks are checked only beside it")
    return SHARED


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory) -> str:
    """16 rows that are both pairs and positives."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    Dataset.from_list([{**row, "messages": row["prompt"] + row["chosen"]} for row in make_pairs(16)]).to_parquet(path)
    return str(path)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer(model_path):
    """As users load it: for a Qwen2 model, `AutoTokenizer` gives it Qwen2's pre-tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture()
def pairs() -> Dataset:
    return Dataset.from_list(make_pairs())
