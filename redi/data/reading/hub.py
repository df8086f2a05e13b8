"""Finds one commit of a Hub dataset, and opens the parquet files of its `train` split, to be read in place."""

import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from redi.data.reading import parquet
from redi.data.reading.rows import Rows
from redi.runs.errors import UsageError, usage_errors

# The client's error without a connection is not an OSError, and comes from one of several HTTP libraries.
TRANSPORT_ERROR = HfHubHTTPError.__bases__[0]


def hub_errors(name: str) -> AbstractContextManager[None]:
    """Turns an error of the Hub or of the connection to it into a `UsageError` that names the dataset."""
    return usage_errors(
        lambda error: f"--input {name} is not a local path, and reading it from the Hub failed: {error}; check the "
        "name, the revision, the connection and, for a gated dataset, `hf auth login`",
        *(OSError, ValueError, TRANSPORT_ERROR),
    )


def pinned(name: str, revision: str | None) -> str:
    """`owner/name@COMMIT`: the commit that `revision` names now, by default the main branch's newest."""
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):  # a commit needs no connection
        with hub_errors(name):
            revision = HfApi().dataset_info(name, revision=revision).sha
    return f"{name}@{revision}"


def open_hub(dataset: str, columns: Collection[str], defaults: Mapping[str, str | None]) -> Rows:
    """As `redi.data.reading.rows.open_rows`, of `owner/name@COMMIT`; prints how much will be downloaded."""
    files, remote = _train_files(dataset), HfFileSystem()
    with hub_errors(dataset):
        footers = parquet.footers(files, remote)
    rows = Rows(dataset, files, *parquet.infer_schema(files, footers, columns, defaults), defaults, remote)
    wanted = sum(parquet.column_bytes(footer, columns)[0] for footer in footers)
    stored = sum(parquet.column_bytes(footer)[0] for footer in footers)
    print(
        f"{dataset}: {rows.num_rows:,} rows in {len(files)} files; {wanted / 1e6:,.1f} of their "
        f"{stored / 1e6:,.1f} MB will be downloaded, none of it kept",
        flush=True,
    )
    return rows


def _train_files(dataset: str) -> list[str]:
    """The files of the `train` split in its order, as `hf://datasets/owner/name@COMMIT/...` for `HfFileSystem`."""
    from datasets import load_dataset_builder  # takes seconds to import; knows how a card maps splits to files

    name, _, commit = dataset.partition("@")
    with hub_errors(dataset):
        splits = load_dataset_builder(name, revision=commit).config.data_files or {}
    files = [str(file) for file in splits.get("train", [])]
    if not files or not all(file.endswith(".parquet") for file in files):
        names = ", ".join(map(str, splits)) or "none"
        what = f"its train split has {files[0]}" if files else f"its splits are: {names}"
        raise UsageError(
            f"--input {dataset}: a Hub dataset is read from the parquet files of its split 'train', but {what}; try "
            "--revision refs/convert/parquet, which the Hub makes for many datasets, or download the files"
        )
    return files
