"""The environment of all tests, and the fixtures they share: the tiny model, its tokenizer, pairs, an SFT model."""

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
from helpers.real_model import real_model_folder
from helpers.tiny import make_model, make_pairs, make_tokenizer


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: where several processes share the tests, none is left alone with a long one at the end."""
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker("slow")
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "test_quickstart" not in item.nodeid))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist: real corpora and benchmarks are checked only with it")
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
def real_path() -> Path:
    """A pretrained model, for tests marked `real`; see `helpers.real_model`."""
    return real_model_folder()


@pytest.fixture(scope="session")
def tokenizer(model_path):
    """As users load it: `AutoTokenizer` gives a Qwen2 model Qwen2's pre-tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture()
def pairs() -> Dataset:
    return Dataset.from_list(make_pairs())


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory) -> str:
    """16 pairs on disk."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    Dataset.from_list(make_pairs(16)).to_parquet(path)
    return str(path)


@pytest.fixture(scope="session")
def sft_path(model_path, tmp_path_factory) -> str:
    """The tiny model trained on both responses of every pair of `pairs_file`: the state that REDI starts from."""
    import train_redi
    from helpers.commands import CPU

    folder = tmp_path_factory.mktemp("sft")
    rows = [{**row, "chosen": row[side]} for row in make_pairs(16) for side in ("chosen", "rejected")]
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    argv = ["--model_name_or_path", model_path, "--dataset_name", str(folder / "rows.parquet"), "--alpha", "0", *CPU]
    argv += ["--output_dir", str(folder / "model"), "--max_steps", "60", "--learning_rate", "1e-2"]
    train_redi.main([*argv, "--save_strategy", "no"])
    return str(folder / "model")
