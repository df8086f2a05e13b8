"""Opens the rows that a training run starts from: local parquet or JSON lines, or a dataset of the Hub."""

import re
from pathlib import Path

import pyarrow.dataset
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from redi.runs.errors import UsageError, usage_errors
from redi.runs.files import is_hub_id, reach_hub


def load_rows(name: str, split: str) -> Dataset:
    """The rows of a folder of parquet files, a parquet or `.jsonl` file, or a Hub id.

    The split is written as `datasets` does: `train`, `train[:1000]`, `train+test[:10%]`. A name that does not exist,
    has no such split or cannot be loaded is a `UsageError`.
    """
    files = _files_by_split(name, split)
    if not all(files.values()) and not Path(name).exists():
        if not is_hub_id(name):
            raise UsageError(f"dataset_name={name} does not exist, and is not a Hub id (owner/name)")
        reach_hub(name, f"dataset_name={name}", "dataset")
    kinds = (DatasetNotFoundError, FileNotFoundError, ConnectionError, ValueError, AssertionError)
    kinds += (DatasetGenerationError,)  # which says nothing: its cause does, such as a full disk
    where = f"dataset_name={name}, dataset_train_split={split}"
    with usage_errors(lambda error: f"{where} cannot be loaded: {error.__cause__ or error}", *kinds):
        if all(files.values()):
            paths = {part: list(map(str, found)) for part, found in files.items()}
            return load_dataset("json" if _is_jsonl(name) else "parquet", data_files=paths, split=split)
        return load_dataset(name, split=split)


def scan_rows(name: str, split: str) -> pyarrow.dataset.Dataset:
    """The rows of `load_rows`, for reading some columns or the first rows. Parquet files are read in place."""
    files = split_files(name, split)
    if files and split in _files_by_split(name, split) and not _is_jsonl(name):
        return pyarrow.dataset.dataset([str(file.resolve()) for file in files], format="parquet")
    return pyarrow.dataset.dataset(load_rows(name, split).with_format("arrow")[:])


def split_files(name: str, split: str) -> list[Path]:
    """A file itself, or the files `SPLIT-*.parquet` of a folder, of a slice all; none for anything else."""
    return [file for files in _files_by_split(name, split).values() for file in files]


def _is_jsonl(name: str) -> bool:
    return name.endswith(".jsonl") and Path(name).is_file()


def _files_by_split(name: str, split: str) -> dict[str, list[Path]]:
    """The files of each split named in `train[:10]+test`."""
    # `datasets` caches files by their times, but may know a folder by its name and its dataset card alone, and then
    # return the rows of another folder.
    path, parts = Path(name), [re.split(r"[\[(]", part)[0].strip() for part in split.split("+")]
    if not path.is_file():
        return {part: sorted(path.glob(f"{part}-*.parquet")) for part in parts}
    if parts != ["train"] and not (len(parts) == 1 and re.match(rf"{re.escape(parts[0])}\b", path.name)):
        where = f"dataset_name={name}, dataset_train_split={split}"
        raise UsageError(f"{where}: the rows of a file are its split train; use train, or a slice such as train[:100]")
    return {parts[0]: [path]}
