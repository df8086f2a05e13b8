"""The rows that training starts from, loaded or scanned in place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from helpers.tiny import make_pairs

from redi.data.training_data import load_rows, scan_rows, split_files
from redi.runs.errors import UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    for i in range(2):
        table = pa.table({"x": [2 * i, 2 * i + 1], "text": ["a", "b"]})
        pq.write_table(table, tmp_path / "rows" / f"train-0000{i}-of-00002.parquet")
    pq.write_table(pa.table({"x": [9], "text": ["c"]}), tmp_path / "rows" / "test-00000-of-00001.parquet")
    return tmp_path / "rows"


def test_a_split_is_loaded_and_scanned_alike(folder):
    for split, expected in (("train", [0, 1, 2, 3]), ("test", [9])):
        assert load_rows(str(folder), split)["x"][:] == expected
        assert scan_rows(str(folder), split).to_table(columns=["x"])["x"].to_pylist() == expected
    (file,) = split_files(str(folder / "test-00000-of-00001.parquet"), "train")
    assert scan_rows(str(file), "train").count_rows() == 1


def test_a_folder_of_another_layout_is_scanned_through_datasets(folder):
    for file in folder.iterdir():
        file.rename(folder / file.name.replace("train-", "data-")) if "train" in file.name else file.unlink()
    assert split_files(str(folder), "train") == []
    assert sorted(scan_rows(str(folder), "train").to_table()["x"].to_pylist()) == [0, 1, 2, 3]


def test_missing_datasets_and_splits_are_user_errors(folder):
    for name, split, message in (("nowhere", "train", "does not exist"), (str(folder), "val", "cannot be loaded")):
        for read in (load_rows, scan_rows):
            with pytest.raises(UsageError, match=message):
                read(name, split)


def test_rows_are_those_of_the_folder_whatever_was_cached_of_one_of_its_name(tmp_path):
    """datasets knows a local folder whose card has `configs` by its name and its card alone."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*.parquet\n---\n"
    for number in (3, 5, 4):
        folder = tmp_path / str(number % 2) / "pairs"  # 5 takes the place of 3: a folder built again
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(make_pairs(number)).to_parquet(folder / "train-00000-of-00001.parquet")
        (folder / "README.md").write_text(card)
        assert len(load_rows(str(folder), "train")) == number


@pytest.mark.parametrize(
    "split, expected",
    [
        ("train[:3]", [0, 1, 2]),
        ("train[50%:]", [2, 3]),
        ("train[-1:]+test", [3, 9]),
        ("train[:1]+train[3:]", [0, 3]),
    ],
)
def test_parts_of_splits_are_loaded_and_scanned_alike(folder, split, expected):
    assert load_rows(str(folder), split)["x"][:] == expected
    assert scan_rows(str(folder), split).to_table()["x"].to_pylist() == expected


def test_a_file_has_one_split_and_its_slices(folder):
    file = str(folder / "train-00000-of-00002.parquet")
    assert load_rows(file, "train[1:]")["x"][:] == [1]
    assert scan_rows(file, "train[1:]").to_table()["x"].to_pylist() == [1]
    other = str(folder / "test-00000-of-00001.parquet")
    assert load_rows(other, "test")["x"][:] == [9]
    for name, split in ((file, "test"), (file, "train+test"), (file, "test[:1]")):
        for read in (load_rows, scan_rows):
            with pytest.raises(UsageError, match="dataset_train_split=.*: the rows of a file are its split train"):
                read(name, split)
    for split in ("train[:1", "train[:0]"):
        with pytest.raises(UsageError, match="dataset_train_split=.* cannot be loaded: "):
            load_rows(file, split)


def test_json_lines_train_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "pairs.jsonl"
    rows = make_pairs(3)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_rows(str(file), "train").to_list() == rows
    assert load_rows(str(file), "train[:2]").to_list() == rows[:2]
    assert scan_rows(str(file), "train").to_table().to_pylist() == rows
    file.write_text('{"prompt": "x", "chosen": \n')
    for read in (load_rows, scan_rows):
        with pytest.raises(UsageError, match=r"pairs.jsonl, dataset_train_split=train cannot be loaded"):
            read(str(file), "train")
