"""Dataset cards that the Hub's tools can read, and folders that `load_dataset` keeps apart."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from helpers.corpus import ROWS, run, write_corpus
from matplotlib.image import imread

from redi.data.dataset_folder import write_card
from redi.data.lengths.dataset_lengths import DatasetLengths


@pytest.mark.parametrize(
    ("num_rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (53175, "10K<n<100K"), (10**8, "100M<n<1B")]
)
def test_front_matter(tmp_path, num_rows, size):
    counts = {"input_rows": num_rows, "dropped": {}, "rows": num_rows}
    write_card(tmp_path, title="pairs", summary="Pairs.", config={}, inputs={"corpus": "raw"}, counts=counts)
    front = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front) == {
        "size_categories": [size],
        "task_categories": ["text-generation"],
    }
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_folders_of_the_same_name_are_not_confused(tmp_path):
    """With a plot next to the rows, in one cache; the second folder is then written again with other rows."""
    columns = {name: np.arange(1, 11) for name in ("prompt", "response", "total")}
    lengths = DatasetLengths("tokens", columns, np.array(["aops"] * 10))
    for place, num_rows in (("a", 3), ("b", 5), ("b", 4)):
        folder = tmp_path / place / "pairs"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": list(range(num_rows))}), folder / "train-00000-of-00001.parquet")
        counts = {"input_rows": num_rows, "dropped": {}, "rows": num_rows}
        write_card(folder, title="pairs", summary="Pairs.", config={}, inputs={}, counts=counts, lengths=lengths)
        loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["x"][:] == list(range(num_rows))


@pytest.mark.parametrize(("name", "kept"), [("build_pairs", 10), ("build_positives", 11)])
def test_card_of_a_build(tmp_path, name, kept):
    corpus = write_corpus(tmp_path / "raw.parquet")
    run(name, "--input", corpus, "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    tables = card.split("## Lengths")[0].splitlines()
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in tables if line.startswith("|")}
    assert int(table["input"][0]) == len(ROWS) == 28
    assert int(table["dropped: verifier lists mismatch"][0]) == 5
    assert int(table["kept"][0]) == kept
    assert [int(cell) for cell in table["cn_k12"][:2]] == [3, 0]
    assert [int(cell) for cell in table['"cn_k12 "'][:2]] == [1, 1]
    assert [int(cell) for cell in table["(none)"][:2]] == [1, 1]
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["sources"]
    assert sources["olympiads"] == {"input": 23, "kept": kept - 2}
    assert sources["cn_k12 "] == {"input": 1, "kept": 1}
    assert str(corpus) in card
    assert imread(tmp_path / "out" / "lengths.png").shape == (720, 1100, 4)
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == kept
