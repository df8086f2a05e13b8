"""Dataset cards and the study of lengths: numbers worked by hand, and files that the Hub's tools can read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from helpers.corpus import ROWS, fails, row, run, turns, write_corpus
from matplotlib.image import imread

from redi.data.dataset_card import write_card
from redi.data.lengths.measure import Lengths, Recorder
from redi.data.lengths.plots import plot
from redi.data.lengths.tables import markdown, summarise, tables


def lengths_of(prompts, chosen, rejected, sources):
    columns = {"prompt": np.array(prompts), "chosen": np.array(chosen), "rejected": np.array(rejected)}
    columns["total"] = sum(columns.values())
    names = sorted(set(sources), key=lambda name: -sources.count(name))
    return Lengths("tokens", columns, names, np.array([names.index(name) for name in sources]))


# Of ten rows: prompts 10, 20, ..., 100.
TEN = lengths_of(range(10, 110, 10), [1] * 9 + [200], [5] * 8 + [150, 5], ["aops"] * 4 + ["amc"] * 6)


def pairs_table(*rows):
    """Pairs of `(prompt, chosen, rejected, source)`."""
    made = [
        {"prompt": p, "chosen": turns(p, c), "rejected": turns(p, r), "source": source} for p, c, r, source in rows
    ]
    return pa.Table.from_pylist(made)


def test_characters_by_hand():
    first = pairs_table(("ab", "abc", "\u03c0", "aops"), ("a", "", "four", "amc"))
    second = pairs_table(("abc", "a", "a", None), ("abcd", "ab", "b", "amc"))
    recorder = Recorder()
    assert list(recorder.recording([first, second])) == [first, second]
    lengths = recorder.lengths()
    assert lengths.unit == "characters"
    assert {name: values.tolist() for name, values in lengths.columns.items()} == {
        "prompt": [2, 1, 3, 4],
        "chosen": [3, 0, 1, 2],
        "rejected": [1, 4, 1, 1],
        "total": [6, 5, 5, 7],
    }
    assert lengths.sources == ["amc", "aops", "(none)"]
    assert lengths.source_of.tolist() == [1, 0, 2, 0]


def test_token_counts_beside_the_pairs_are_taken():
    table = pairs_table(("ab", "abc", "a", "aops"))
    for name, value in {"prompt_len": 11, "chosen_len": 12, "rejected_len": 13}.items():
        table = table.append_column(name, pa.array([value]))
    recorder = Recorder()
    list(recorder.recording([table]))
    lengths = recorder.lengths()
    assert lengths.unit == "tokens"
    assert {name: values.tolist() for name, values in lengths.columns.items()} == {
        "prompt": [11],
        "chosen": [12],
        "rejected": [13],
        "total": [36],
    }


def test_percentiles_are_lengths_that_occur():
    found = summarise(TEN)["lengths"]["prompt"]
    # At least half of the ten do not exceed 50, and at least 75 % do not exceed 80.
    percentiles = {"p5": 10, "p25": 30, "p50": 50, "p75": 80, "p90": 90, "p95": 100, "p99": 100}
    assert found == {"min": 10, **percentiles, "max": 100, "mean": 55.0}
    assert summarise(TEN)["lengths"]["total"]["max"] == 100 + 200 + 5
    assert summarise(TEN)["sources"]["amc"]["rows"] == 6
    assert summarise(TEN)["sources"]["aops"]["lengths"]["prompt"]["max"] == 40


def test_what_limits_drop():
    limits = summarise(TEN, max_prompt=90, max_response=149)["limits"]
    # The last row's prompt exceeds 90, its chosen response too: counted once. The ninth's rejected one exceeds 149.
    assert limits["dropped"] == {"prompt too long": 1, "response too long": 1, "kept": 8}
    assert limits["by_source"]["aops"] == {"prompt too long": 0, "response too long": 0, "kept": 4}
    assert summarise(TEN, max_response=150)["limits"]["dropped"] == {
        "prompt too long": 0,
        "response too long": 1,
        "kept": 9,
    }
    assert "With limits of 90 tokens for a prompt and of 149 tokens for a response:" in tables(summarise(TEN, 90, 149))
    assert "limits" not in summarise(TEN)


def test_many_sources_are_summed_up():
    names = [f"s{i}" for i in range(12) for _ in range(12 - i)]
    groups = lengths_of([1] * 78, [1] * 78, [1] * 78, names).by_source()
    assert list(groups) == [*(f"s{i}" for i in range(9)), "3 others"]
    assert [len(group.source_of) for group in groups.values()] == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3 + 2 + 1]


def test_markdown():
    assert markdown(["source", "rows"], [["a|b", 1234], ["x\n", 0.5]]) == (
        '| source |  rows |\n|--------|------:|\n| a\\|b   | 1,234 |\n| "x\\n"  |   0.5 |'
    )


def test_picture(tmp_path):
    for name, limits in (("without", ()), ("with", (90, 149))):
        plot(TEN, tmp_path / f"{name}.png", *limits)
    pictures = [imread(tmp_path / f"{name}.png") for name in ("without", "with")]
    assert pictures[0].shape == pictures[1].shape == (720, 1100, 4)
    assert (pictures[0] != pictures[1]).any()
    # Lengths of 0, and all the same, have a place on a logarithmic axis.
    plot(lengths_of([0, 0], [0, 0], [0, 0], ["", "$\\x$"]), tmp_path / "zeros.png")


@pytest.mark.parametrize(
    ("num_rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (53175, "10K<n<100K"), (10**8, "100M<n<1B")]
)
def test_front_matter(tmp_path, num_rows, size):
    counts = {"input_rows": num_rows, "dropped": {}, "rows": num_rows}
    write_card(tmp_path, title="pairs", summary="Pairs.", config={}, inputs={"corpus": "raw"}, counts=counts)
    front = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front) == {
        "size_categories": [size],
        "task_categories": ["text-generation"],
    }
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_folders_of_one_name_are_not_taken_for_one_another(tmp_path):
    """With a picture beside the rows, in one cache; the second folder is then written again with other rows."""
    for place, num_rows in (("a", 3), ("b", 5), ("b", 4)):
        folder = tmp_path / place / "pairs"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": list(range(num_rows))}), folder / "train-00000-of-00001.parquet")
        counts = {"input_rows": num_rows, "dropped": {}, "rows": num_rows}
        write_card(folder, title="pairs", summary="Pairs.", config={}, inputs={}, counts=counts, lengths=TEN)
        loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["x"][:] == list(range(num_rows))


@pytest.mark.parametrize(("name", "kept"), [("build_pairs", 10), ("build_positives", 11)])
def test_card_of_a_build(tmp_path, name, kept):
    corpus = write_corpus(tmp_path / "raw.parquet")
    run(name, "--input", corpus, "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    tables = card.split("## Lengths")[0].splitlines()
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in tables if line.startswith("|")}
    assert int(table["input"][0]) == len(ROWS) == 28
    assert int(table["dropped: verifier lists mismatch"][0]) == 5
    assert int(table["kept"][0]) == kept
    assert [int(cell) for cell in table["cn_k12"][:2]] == [3, 0]
    assert [int(cell) for cell in table['"cn_k12 "'][:2]] == [1, 1]
    assert [int(cell) for cell in table["(none)"][:2]] == [1, 1]
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["sources"]
    assert sources["olympiads"] == {"input": 23, "kept": kept - 2}
    assert sources["cn_k12 "] == {"input": 1, "kept": 1}
    assert str(corpus) in card
    assert imread(tmp_path / "out" / "lengths.png").shape == (720, 1100, 4)
    dataset = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == kept


def study(output, *arguments):
    run("study_lengths", "--output", output, *arguments)
    return json.loads((output / "lengths.json").read_text())


def test_study_counts_what_the_filter_drops(tmp_path, model_path, capsys):
    rows = [row("a " * n, [True, False], [True, False], generations=["b " * n, "c" * n]) for n in (1, 5, 9, 30)]
    rows.append(row("twins", [True, False], [True, False], generations=["d" * 99, "d" * 99]))  # counted as 1 each
    corpus = write_corpus(tmp_path / "raw.parquet", rows)
    for rule in ("paper", "exact"):
        limits = ["--tokenizer", model_path, "--length-rule", rule]
        run("build_pairs", "--input", corpus, "--output", tmp_path / rule, *limits)
        whole = pq.read_table(next((tmp_path / rule).glob("*.parquet")))
        limit = sorted(whole["chosen_len"].to_pylist())[3]
        limits += ["--max-response-tokens", limit, "--max-prompt-tokens", sorted(whole["prompt_len"].to_pylist())[3]]
        run("build_pairs", "--input", corpus, "--output", tmp_path / f"{rule}-limits", *limits)
        dropped = json.loads((tmp_path / f"{rule}-limits" / "manifest.json").read_text())["counts"]["dropped"]
        run("build_pairs", "--input", corpus, "--output", tmp_path / f"{rule}-texts")
        found = study(tmp_path / f"{rule}-study", "--input", tmp_path / f"{rule}-texts", *limits)
        assert dropped["prompt too long"] > 0
        for reason in ("prompt too long", "response too long"):
            assert found["limits"]["dropped"][reason] == dropped[reason]
        recorded = study(tmp_path / f"{rule}-recorded", "--input", tmp_path / rule)
        assert recorded["lengths"] == found["lengths"]
        assert (tmp_path / f"{rule}-study" / "lengths.md").read_text() in capsys.readouterr().out


def test_study_of_real_traces(shared, tmp_path):
    corpus = shared / "corpora" / "gsm8k_traces.parquet"
    for name, sides in (("build_pairs", ["chosen", "rejected"]), ("build_positives", ["response"])):
        run(name, "--input", corpus, "--output", tmp_path / name)
        found = study(tmp_path / f"{name}-study", "--input", tmp_path / name)
        assert (found["unit"], found["rows"]) == ("characters", {"build_pairs": 731, "build_positives": 887}[name])
        assert list(found["lengths"]) == ["prompt", *sides, "total"]
        files = sorted(file.name for file in (tmp_path / f"{name}-study").iterdir())
        assert files == ["lengths.json", "lengths.md", "lengths.png", "manifest.json"]
    rows = pq.read_table(next((tmp_path / "build_pairs").glob("*.parquet"))).to_pylist()
    longest = max(len(made["rejected"][1]["content"]) for made in rows)
    assert study(tmp_path / "again", "--input", tmp_path / "build_pairs")["lengths"]["rejected"]["max"] == longest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-prompt-tokens", "9"], "--max-prompt-tokens: {input} holds no token counts; pass --tokenizer"),
        (["--length-rule", "exact"], "--length-rule needs a tokenizer"),
        (["--input", "nowhere"], "--input nowhere does not exist"),
        (["--input", "{corpus}"], "holds neither pairs (chosen, rejected, source) nor positives"),
        (["--output", "{input}"], "holds the input"),
    ],
)
def test_wrong_options(tmp_path, capsys, arguments, message):
    corpus = write_corpus(tmp_path / "raw.parquet")
    run("build_pairs", "--input", corpus, "--output", tmp_path / "pairs")
    capsys.readouterr()
    names = {"input": tmp_path / "pairs", "corpus": corpus}
    options = ["--input", tmp_path / "pairs", "--output", tmp_path / "out"]
    error = fails(capsys, "study_lengths", *options, *(argument.format(**names) for argument in arguments))
    assert message.format(**names) in error
    assert not (tmp_path / "out").exists()
