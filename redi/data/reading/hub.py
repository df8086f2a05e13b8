"""Datasets of the Hugging Face Hub: one commit of one, and the parquet files of its `train` split, read in place."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from redi.runs.errors import UsageError

# What the client raises where there is no connection is no OSError, and which library the client is varies.
TRANSPORT_ERROR = HfHubHTTPError.__bases__[0]


@contextmanager
def talking_to_hub(name: str) -> Iterator[None]:
    """Turns what the Hub answers with, or that it does not answer, into a `UsageError` naming the dataset."""
    try:
        yield
    except UsageError:
        raise
    except (OSError, ValueError, TRANSPORT_ERROR) as error:
        raise UsageError(
            f"--input {name} is no local path, and reading it from the Hub failed: {error}; check the name, the "
            "revision, the connection and, for a gated dataset, `hf auth login`"
        ) from error


def pinned(name: str, revision: str | None) -> str:
    """`owner/name@COMMIT`: the commit that `revision` names now, by default that of the main branch.

    A whole commit id is taken as it is, so that finished work is recognised without a connection.
    """
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        with talking_to_hub(name):
            revision = HfApi().dataset_info(name, revision=revision).sha
    return f"{name}@{revision}"


def train_files(dataset: str) -> list[str]:
    """The parquet files of the `train` split, in its order.

    Args:
        dataset: `owner/name@COMMIT`.

    Returns:
        What `HfFileSystem` opens: `hf://datasets/owner/name@COMMIT/...`.
    """
    from datasets import load_dataset_builder  # takes seconds to import; it knows how a card maps splits to files

    name, _, commit = dataset.partition("@")
    with talking_to_hub(dataset):
        splits = load_dataset_builder(name, revision=commit).config.data_files or {}
    files = [str(file) for file in splits.get("train", [])]
    if not files or not all(file.endswith(".parquet") for file in files):
        what = (
            f"its train split has {files[0]}" if files else f"its splits are: {', '.join(map(str, splits)) or 'none'}"
        )
        raise UsageError(
            f"--input {dataset}: a Hub dataset is read from the parquet files of its split 'train', but {what}; try "
            "--revision refs/convert/parquet, which the Hub makes of many datasets, or download it and give the folder"
        )
    return files


def file_system() -> HfFileSystem:
    """The Hub's files, opened with the user's own credentials."""
    return HfFileSystem()


def guarded(name: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; a connection that breaks in their midst is a `UsageError`."""
    with talking_to_hub(name):
        yield from batches
