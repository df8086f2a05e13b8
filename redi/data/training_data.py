"""Opens the rows that a training run starts from: local parquet, or a dataset of the Hub."""

from pathlib import Path

import pyarrow.dataset
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from redi.runs.errors import UsageError, usage_errors
from redi.runs.hub import is_hub_id


def load_rows(name: str, split: str) -> Dataset:
    """The rows of a folder of parquet files, a parquet file, or a Hub id.

    Raises:
        UsageError: `name` does not exist, or cannot be loaded.
    """
    files = split_files(name, split)
    if not files and not Path(name).exists() and not is_hub_id(name):
        raise UsageError(f"dataset_name={name} does not exist, and is not a Hub id (owner/name)")
    kinds = (DatasetNotFoundError, FileNotFoundError, ConnectionError, ValueError)
    with usage_errors(lambda error: f"dataset_name={name} cannot be loaded: {error}", *kinds):
        if files:
            return load_dataset("parquet", data_files=list(map(str, files)), split="train")
        return load_dataset(name, split=split)


def scan_rows(name: str, split: str) -> pyarrow.dataset.Dataset:
    """The rows of `load_rows`, for reading some columns or the first rows. Parquet files are read in place.

    Raises:
        UsageError: as `load_rows`.
    """
    files = split_files(name, split)
    if files:
        return pyarrow.dataset.dataset([str(file.resolve()) for file in files], format="parquet")
    return pyarrow.dataset.dataset(load_rows(name, split).with_format("arrow")[:])


def split_files(name: str, split: str) -> list[Path]:
    """A parquet file itself, or the files `SPLIT-*.parquet` of a folder; none for anything else.

    `datasets` caches files by their times, but may know a folder by its name and its dataset card alone, and then
    return the rows of another folder.
    """
    path = Path(name)
    return [path] if path.is_file() else sorted(path.glob(f"{split}-*.parquet"))
