"""The verifier ablation, against plain lists built as the original builds them."""

import json
import random

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import ROWS, eligible, fails, provenance, read_rows, run, turns, write_corpus

NUM_PAIRED = 6  # ROWS: spaces, nearly k12, no source, blank problem, same text, pi
NUM_SINGLE = 5  # one verifier first (twice), capitals, null flags, all right


def row_of(index, row, chosen, rejected=None, **more):
    """A pair, or without `rejected` a row of `sft`."""
    texts = [turns(row["problem"], row["generations"][i]) for i in (chosen, rejected) if i is not None]
    made = {**provenance(index, row), "chosen_gen_idx": chosen, **more}
    if rejected is None:
        return {"messages": texts[0], **made}
    return {"prompt": row["problem"], "chosen": texts[0], "rejected": texts[1], "rejected_gen_idx": rejected, **made}


def expected(rows, length=None, limit=None):
    """The three sets; `length` is a response's in tokens, a pair with one over `limit` is left out."""
    paired, single = [], []
    for index, row, verdicts in eligible(rows):  # a verdict is the number of verifiers that accept
        if 2 in verdicts and 0 in verdicts:
            paired.append((index, row, verdicts.index(2), verdicts.index(0)))
        elif 2 in verdicts:
            single.append((index, row, verdicts.index(2)))
    random.seed(123)
    random.shuffle(paired)
    first, second = paired[: len(paired) // 2], paired[len(paired) // 2 :]
    sft = [row_of(i, row, positive, sft_source="group1_correct") for i, row, positive, _ in first]
    sft += [row_of(i, row, negative, sft_source="group2_incorrect") for i, row, _, negative in second]
    sft += [row_of(i, row, positive, sft_source="typeB_correct") for i, row, positive in single]
    main = [row_of(i, row, positive, negative) for i, row, positive, negative in first]
    inverted = [row_of(i, row, negative, positive) for i, row, positive, negative in second]
    if limit is not None:
        for pair in (*main, *inverted):
            pair |= {f"{name}_len": length(pair[name][1]["content"]) + 1 for name in ("chosen", "rejected")}
        main, inverted = (
            [pair for pair in pairs if max(pair["chosen_len"], pair["rejected_len"]) <= limit]
            for pairs in (main, inverted)
        )
    size = min(len(main), len(inverted))
    sets = {"sft": sft}
    for name, pairs in (("main", main), ("inverted", inverted)):
        random.seed(123)
        sets[name] = pairs if len(pairs) == size else random.sample(pairs, size)
    return sets


def ablate(folder, corpus, *more):
    run("ablate_verifiers", "--input", corpus, "--output", folder / "out", "--overwrite", *more)
    return {name: read_rows(folder / "out" / name) for name in ("sft", "main", "inverted")}


def test_the_root_folder_loads_each_set(tmp_path):
    """In one cache, from two folders of the same name; the second is then built again from other rows."""
    for place, rows in (("a", ROWS), ("b", ROWS[::-1]), ("b", ROWS)):
        (tmp_path / place).mkdir(exist_ok=True)
        made = ablate(tmp_path / place, write_corpus(tmp_path / place / "raw.parquet", rows))
        for name, expected_rows in made.items():
            found = load_dataset(str(tmp_path / place / "out"), name, split="train", cache_dir=str(tmp_path / "cache"))
            assert found.to_list() == expected_rows
    with pytest.raises(ValueError, match="Config name is missing"):
        load_dataset(str(tmp_path / "b" / "out"), cache_dir=str(tmp_path / "cache"))


def test_three_sets(tmp_path, capsys):
    made = ablate(tmp_path, write_corpus(tmp_path / "raw.parquet"))
    assert {name: len(rows) for name, rows in made.items()} == {
        "sft": NUM_PAIRED + NUM_SINGLE,
        "main": NUM_PAIRED // 2,
        "inverted": NUM_PAIRED // 2,
    }
    assert made == expected(ROWS)
    # Each problem with a negative is in one half only, and the pairs show what stage 1 was trained on.
    trained = {row["original_index"]: row["messages"] for row in made["sft"]}
    pairs = [*made["main"], *made["inverted"]]
    assert len({pair["original_index"] for pair in pairs}) == NUM_PAIRED
    assert all(trained[pair["original_index"]] == pair["chosen"] for pair in pairs)
    # "pi": 0 is accepted by one verifier and 1 by none, so 1 is its negative.
    (pi,) = [pair for pair in pairs if pair["original_index"] == 26]
    assert {pi["chosen_gen_idx"], pi["rejected_gen_idx"]} == {1, 2}

    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["problems"] == {"half 1": 3, "half 2": 3, "without negative": NUM_SINGLE}
    for name, rows in made.items():
        of_set = json.loads((tmp_path / "out" / name / "manifest.json").read_text())["counts"]
        assert of_set["input_rows"] == sum(of_set["dropped"].values()) + of_set["rows"]
        assert of_set["rows"] == len(rows)
        dataset = load_dataset(str(tmp_path / "out" / name), split="train", cache_dir=str(tmp_path / "cache"))
        assert dataset.to_list() == rows
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "inverted",
        "main",
        "manifest.json",
        "sft",
    ]


def test_limits_and_equal_size(tmp_path, model_path, tokenizer):
    """From the first limit that leaves a pair in both halves to one that drops none; the larger half is sampled."""

    def length(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    corpus = write_corpus(tmp_path / "raw.parquet")
    seen = set()
    before = None
    for limit in range(1, 30):
        sets = expected(ROWS, length, limit)
        if not sets["main"] or sets == before:
            continue
        before = sets
        made = ablate(tmp_path, corpus, "--tokenizer", model_path, "--max-response-tokens", limit)
        for pair in (*made["main"], *made["inverted"]):
            alone = tokenizer.apply_chat_template(pair["chosen"][:1], tokenize=False)
            assert pair.pop("prompt_len") == length(alone) + 1
        assert made == sets
        dropped = [
            json.loads((tmp_path / "out" / name / "manifest.json").read_text())["counts"]["dropped"]
            for name in ("main", "inverted")
        ]
        seen.add(tuple(tuple(reasons.values()) for reasons in dropped))
    # (too long, sampled down) of each half: a limit that drops from one half alone, and one that drops nothing.
    assert len(seen) > 1 and ((0, 0), (0, 0)) in seen
    assert any(one[1] != other[1] for one, other in seen)


def test_again_and_expected_rows(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "raw.parquet")
    total = 2 * NUM_PAIRED + NUM_SINGLE
    options = ["--input", corpus, "--output", tmp_path / "out"]
    error = fails(capsys, "ablate_verifiers", *options, "--expect-rows", total + 1)
    assert error == f"error: --expect-rows {total + 1}: the result has {total} rows\n"
    assert list(tmp_path.iterdir()) == [corpus]
    run("ablate_verifiers", *options, "--expect-rows", total)
    capsys.readouterr()
    run("ablate_verifiers", *options)
    assert f"already done, {total} rows" in capsys.readouterr().out
    assert "pass --overwrite" in fails(capsys, "ablate_verifiers", *options, "--seed", 1)


def test_too_little_to_halve(tmp_path, capsys):
    options = ["--output", tmp_path / "out"]
    for rows, number in ((ROWS[:3], 1), (ROWS[:2], 0), ([], 0)):
        corpus = write_corpus(tmp_path / "raw.parquet", rows)
        error = fails(capsys, "ablate_verifiers", "--input", corpus, *options)
        assert f"{number} problems have a positive and a negative" in error
        assert list(tmp_path.iterdir()) == [corpus]
    error = fails(capsys, "ablate_verifiers", "--input", corpus, *options, "--max-response-tokens", 7)
    assert "--max-response-tokens needs a tokenizer" in error


def test_gsm8k_traces(gsm8k, tmp_path):
    """731 problems have both kinds of trace, 156 more only accepted ones: 365 and 366, and 365 after sampling."""
    made = ablate(tmp_path, gsm8k)
    assert {name: len(rows) for name, rows in made.items()} == {"sft": 731 + 156, "main": 365, "inverted": 365}
    columns = ["problem", "problem_is_valid", "source", "generations", "correctness"]
    assert made == expected(pq.read_table(gsm8k, columns=columns).to_pylist())
