"""Pairs with the negatives of other problems: which pair gets which, and that nothing else changes."""

import json

import numpy as np
import pytest
import shuffle_negatives
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from redi.data.shuffled_negatives import partners


@given(num_rows=st.integers(2, 50), seed=st.integers(0, 1000))
def test_every_pair_gets_anothers_negative_and_each_is_used_once(num_rows, seed):
    partner = partners(num_rows, seed)
    assert sorted(partner) == list(range(num_rows))
    assert not np.any(partner == np.arange(num_rows))


def test_the_cycle_of_three_rows_by_hand():
    order = np.random.default_rng(42).permutation(3).tolist()  # row order[1] gets the negative of order[0], and so on
    expected = {order[1]: order[0], order[2]: order[1], order[0]: order[2]}
    assert partners(3, 42).tolist() == [expected[row] for row in range(3)]


@pytest.fixture()
def pairs_folder(tmp_path) -> str:
    (tmp_path / "pairs").mkdir()
    rows = []
    for i in range(7):
        user = {"role": "user", "content": f"problem {i}"}
        chosen, rejected = ({"role": "assistant", "content": f"{side} {i}"} for side in ("right", "wrong"))
        row = {"prompt": f"problem {i}", "chosen": [user, chosen], "rejected": [user, rejected], "source": "s"}
        rows.append({**row, "uuid": f"u{i}", "rejected_gen_idx": i, "prompt_len": 5, "rejected_len": 100 + i})
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs" / "train-00000-of-00001.parquet")
    return str(tmp_path / "pairs")


def test_only_the_negative_and_what_belongs_to_it_move(pairs_folder, tmp_path, capsys):
    argv = ["--input", pairs_folder, "--output", str(tmp_path / "out")]
    shuffle_negatives.main(argv)
    before = load_dataset(pairs_folder, split="train")
    after = load_dataset(str(tmp_path / "out"), split="train")
    for i, (row, old) in enumerate(zip(after, before, strict=True)):
        other = int(row["rejected_uuid"].removeprefix("u"))
        assert other != i
        assert [turn["content"] for turn in row["rejected"]] == [f"problem {i}", f"wrong {other}"]
        assert (row["rejected_gen_idx"], row["rejected_len"]) == (other, 100 + other)
        assert all(row[name] == old[name] for name in ("prompt", "chosen", "source", "uuid", "prompt_len"))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["rows"] == 7
    shuffle_negatives.main(argv)
    assert "already done" in capsys.readouterr().out


def test_other_rows_than_pairs_are_refused(tmp_path, capsys):
    Dataset.from_list([{"messages": "m", "uuid": "u"}]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SystemExit) as caught:
        shuffle_negatives.main(["--input", str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "has no column 'rejected'" in capsys.readouterr().err and not (tmp_path / "out").exists()
