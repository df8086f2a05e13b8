"""A job on disk for the tests of preflight, and what the command reports about it."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import preflight
import pyarrow.dataset
import pytest
from datasets import Dataset

from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs
from redi.preflight.recipe import Rows

NUM_PAIRS = 16


class Job:
    """A recipe on disk, and what preflight reports about it."""

    def __init__(self, folder: Path, model: Path, data: Path, capsys):
        self.folder, self.model, self.data, self.capsys = folder, model, data, capsys
        self.options = {
            "model_name_or_path": model,
            "dataset_name": data,
            "output_dir": folder / "out",
            "global_batch_size": 8,
            "per_device_train_batch_size": 1,
            "dtype": "bfloat16",
            "max_length": 512,
            "save_steps": 2,
            "num_train_epochs": 1,
        }

    @staticmethod
    def on_disk(row: dict) -> dict:
        """A pair as `build_pairs.py` writes it, with the columns of a positive too."""
        prompt = row["prompt"]
        chosen, rejected = prompt + row["chosen"], prompt + row["rejected"]
        return {"prompt": prompt[0]["content"], "chosen": chosen, "rejected": rejected, "messages": chosen}

    def write_rows(self, rows: list[dict]) -> None:
        """Makes these the dataset, with a manifest that counts them."""
        name = "train-00000-of-00001.parquet"
        Dataset.from_list(rows).to_parquet(self.data / name)
        counts = {"rows": len(rows), "files": {name: len(rows)}}
        (self.data / "manifest.json").write_text(json.dumps({"config": {}, "counts": counts}))

    def rows(self, kind: str = "pairs") -> Rows:
        table = pyarrow.dataset.dataset(str(self.data / "train-00000-of-00001.parquet"))
        return Rows(table, table.count_rows(), kind, "")

    def config(self, stage: str = "redi") -> Path:
        path = self.folder / "recipes" / stage / "run" / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{key}: {value}\n" for key, value in self.options.items() if value is not None))
        return path

    def check(self, *argv: str, stage: str = "redi", code: int = 0) -> str:
        """What the command prints; if it is to end with code 2, its one line on stderr."""
        argv = [str(self.config(stage)), "--gpus", "4", *argv]
        if code == 0:
            preflight.main(argv)
            return self.capsys.readouterr().out
        with pytest.raises(SystemExit) as caught:
            preflight.main(argv)
        assert caught.value.code == code
        lines = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]


@pytest.fixture()
def job(tmp_path, model_path, capsys, monkeypatch) -> Iterator[Job]:
    """A job without a problem: pairs that are positives too, counted by a manifest, and a tiny model."""
    data = tmp_path / "data"
    data.mkdir()
    # The command changes folder, environment and logging: undone after each test.
    monkeypatch.chdir(REPOSITORY)
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))
    with warnings.catch_warnings():
        job = Job(tmp_path, Path(shutil.copytree(model_path, tmp_path / "model")), data, capsys)
        job.write_rows([job.on_disk(row) for row in make_pairs(NUM_PAIRS)])
        yield job
    logging.disable(logging.NOTSET)
