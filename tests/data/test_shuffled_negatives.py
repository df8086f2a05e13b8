"""Pairs with the negatives of other problems: which pair gets which, and that nothing else changes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shuffle_negatives
from datasets import Dataset, load_dataset
from helpers.corpus import read_rows, turns
from hypothesis import given
from hypothesis import strategies as st

from redi.data.shuffled_negatives import partners
from redi.runs.errors import UsageError


@given(problems=st.lists(st.integers(0, 6), min_size=2, max_size=50), seed=st.integers(0, 1000))
def test_every_pair_gets_anothers_negative_and_each_is_used_once(problems, seed):
    if 2 * max(map(problems.count, problems)) > len(problems):  # more rows of one problem than others could serve
        with pytest.raises(UsageError, match=f"of {len(problems)} pairs have the same problem"):
            partners(problems, seed)
        return
    partner = partners(problems, seed)
    assert sorted(partner) == list(range(len(problems)))
    assert all(problems[row] != problems[other] for row, other in enumerate(partner))


def test_the_cycle_of_three_rows_by_hand():
    order = np.random.default_rng(42).permutation(3).tolist()  # row order[1] gets the negative of order[0], and so on
    expected = {order[1]: order[0], order[2]: order[1], order[0]: order[2]}
    assert partners("abc", 42).tolist() == [expected[row] for row in range(3)]


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


def shuffled(rows: list[dict], folder) -> list[dict]:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    shuffle_negatives.main(["--input", str(folder / "rows.parquet"), "--output", str(folder / "out")])
    return read_rows(folder / "out")


def refusal(rows: list[dict], folder, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        shuffled(rows, folder)
    assert caught.value.code == 2 and not (folder / "out").exists()
    return capsys.readouterr().err


def test_text_stays_whole(tmp_path, capsys):
    texts = ["The cat sat: 12", "Horses run 7!", ""]
    rows = [{"prompt": f"p{i}", "chosen": "ok", "rejected": text, "uuid": f"u{i}"} for i, text in enumerate(texts)]
    after = shuffled(rows, tmp_path)
    for i, row in enumerate(after):
        assert row["rejected"] == texts[int(row["rejected_uuid"][1])] and row["rejected_uuid"] != f"u{i}"
    assert [row["chosen"] for row in after] == ["ok"] * 3
    with pytest.raises(SystemExit):  # a second shuffle could return a negative to its problem
        shuffle_negatives.main(["--input", str(tmp_path / "out"), "--output", str(tmp_path / "twice")])
    assert "so its negatives are shuffled; give the original" in capsys.readouterr().err


def test_turns_and_parts_move_whole(tmp_path):
    """TRL's explicit prompts, content in parts, and a conversation of two rounds."""

    def turn(role, text):
        return {"role": role, "content": [{"type": "text", "text": text}]}

    alone = [{"prompt": [turn("user", f"p{i}")]} for i in range(3)]
    alone = [
        row | {"chosen": [turn("assistant", "a")], "rejected": [turn("assistant", f"r{i}")]}
        for i, row in enumerate(alone)
    ]
    rounds = [[turn("user", f"p{i}"), turn("assistant", "b"), turn("user", "again")] for i in range(3)]
    rounds = [
        {"chosen": [*x, turn("assistant", "c")], "rejected": [*x, turn("assistant", f"r{i}")]}
        for i, x in enumerate(rounds)
    ]
    for name, rows in (("alone", alone), ("rounds", rounds)):
        (tmp_path / name).mkdir()
        after = shuffled([row | {"uuid": f"u{i}"} for i, row in enumerate(rows)], tmp_path / name)
        for old, new in zip(rows, after, strict=True):
            other = rows[int(new["rejected_uuid"][1])]
            assert other != old and new["rejected"] == old["rejected"][:-1] + other["rejected"][-1:]


def test_equal_problems_never_give_each_other_their_negatives(tmp_path, capsys):
    rows = [{"prompt": f"p{i // 2}", "chosen": "ok", "rejected": f"r{i // 2}", "uuid": "u"} for i in range(6)]
    assert all(row["rejected"] != f"r{row['prompt'][1]}" for row in shuffled(rows, tmp_path))
    (tmp_path / "more").mkdir()
    error = refusal([*rows, *rows[:2], *rows[:2], *rows[:2]], tmp_path / "more", capsys)
    assert "8 of 12 pairs have the same problem; at most half of them may" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": []}, "row 1: `rejected` must be a list of messages {'role': ..., 'content': text}, not []"),
        ({"rejected": None}, "row 1: `rejected` must be a list of messages {'role': ..., 'content': text}, not None"),
        ({"rejected": turns("p1", "x")[:1]}, "row 1: `rejected` must end with an assistant turn after a prompt"),
        ({"chosen": turns("p2", "x")}, "row 1: `prompt`, `chosen`, `rejected` hold different prompts"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(tmp_path, capsys, change, message):
    rows = [{"chosen": turns(f"p{i}", "a"), "rejected": turns(f"p{i}", "b"), "uuid": f"u{i}"} for i in range(3)]
    rows[1] |= change
    assert message in refusal(rows, tmp_path, capsys)


def test_other_rows_than_pairs_are_refused(tmp_path, capsys):
    Dataset.from_list([{"messages": "m", "uuid": "u"}]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SystemExit) as caught:
        shuffle_negatives.main(["--input", str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "has no column 'rejected'" in capsys.readouterr().err and not (tmp_path / "out").exists()
