"""The trainers from Python: rows as lists of dicts, and docs/python.md as it is written."""

import json
import re

import pytest
from datasets import Dataset
from helpers.oracle import config, logged, trained
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs

from redi.config import PackedSFTConfig
from redi.sft import PackedSFTTrainer
from redi.trace_trainer import as_dataset


def test_the_page_runs_on_the_cpu_as_it_is_written(model_path, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/python.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(model_path)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "runs/redi/python/model.safetensors").is_file()
    assert json.loads((tmp_path / "runs/redi/recipe/manifest.json").read_text())["counts"]["rows"] == 1


def test_redi_on_a_list_of_dicts_is_redi_on_the_dataset(model_path, tokenizer, pairs, tmp_path):
    losses = [
        logged(trained(model_path, tokenizer, config(tmp_path / name, num_train_epochs=2), rows), "loss")
        for name, rows in (("list", make_pairs()), ("dataset", pairs))
    ]
    assert losses[0] == losses[1]


def test_sft_on_a_list_of_dicts(model_path, tokenizer, tmp_path):
    args = PackedSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    rows = [{"messages": row["prompt"] + row["chosen"]} for row in make_pairs()]
    trainers = [
        PackedSFTTrainer(model=model_path, args=args, train_dataset=each, processing_class=tokenizer)
        for each in (rows, Dataset.from_list(rows))
    ]
    assert trainers[0].train_dataset[:] == trainers[1].train_dataset[:]


@pytest.mark.parametrize("weighted", [0, 1, 2])
def test_a_key_that_only_some_rows_have_is_kept(weighted):
    rows = [{"prompt": "1 + 1?", "completion": str(i), "label": True} for i in range(3)]
    rows[weighted]["weight"] = 2.0
    assert as_dataset(rows)["weight"] == [2.0 if i == weighted else None for i in range(3)]
