"""The rows that a training run starts from."""

from datasets import Dataset
from helpers.tiny import make_pairs

from redi.data.training_data import load_rows


def test_rows_are_those_of_the_folder_whatever_was_cached_of_one_of_its_name(tmp_path):
    """datasets knows a local folder whose card has `configs` by its name and its card alone."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*.parquet\n---\n"
    for number in (3, 5, 4):
        folder = tmp_path / str(number % 2) / "pairs"  # 5 takes the place of 3: a folder built again
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(make_pairs(number)).to_parquet(folder / "train-00000-of-00001.parquet")
        (folder / "README.md").write_text(card)
        assert len(load_rows(str(folder), "train")) == number
