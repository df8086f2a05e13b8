"""The rows that a training run starts from."""

from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from redi.runs.errors import UsageError
from redi.runs.hub import is_hub_id


def load_rows(name: str, split: str) -> Dataset:
    """The rows of a folder of parquet files, a parquet file, or a Hub id.

    Raises:
        UsageError: there is nothing at `name`.
    """
    path = Path(name)
    try:
        # By their files, whose times are part of what the datasets cache knows them by: it may know a folder by its
        # name and its dataset card alone, and give back the rows of another.
        files = [path] if path.is_file() else sorted(path.glob(f"{split}-*.parquet"))
        if files:
            return load_dataset("parquet", data_files=[str(file) for file in files], split="train")
        if not path.exists() and not is_hub_id(name):
            raise UsageError(f"dataset_name={name} does not exist, and is not a Hub id (owner/name)")
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"dataset_name={name} cannot be loaded: {error}") from error
