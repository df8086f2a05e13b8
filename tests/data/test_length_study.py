"""The study of lengths: what it counts, what limits drop, and its files."""

import json

import pyarrow.parquet as pq
import pytest
from helpers.corpus import fails, read_rows, row, run, turns, write_corpus, write_jsonl


def study(output, *arguments):
    run("study_lengths", "--output", output, *arguments)
    return json.loads((output / "lengths.json").read_text())


def test_study_counts_what_the_filter_drops(tmp_path, model_path, capsys):
    rows = [row("a " * n, [True, False], [True, False], generations=["b " * n, "c" * n]) for n in (1, 5, 9, 30)]
    rows.append(
        row("twins", [True, False], [True, False], generations=["d" * 99, "d" * 99])
    )  # counted with their prompt
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
        dropped["prompt too long"] += dropped.pop("same responses, too long", 0)
        assert dropped["prompt too long"] > 0
        for reason in ("prompt too long", "response too long"):
            assert found["limits"]["dropped"][reason] == dropped[reason]
        recorded = study(tmp_path / f"{rule}-recorded", "--input", tmp_path / rule)
        assert recorded["lengths"] == found["lengths"]
        assert (tmp_path / f"{rule}-study" / "lengths.md").read_text() in capsys.readouterr().out


def test_study_of_real_traces(gsm8k_positives, gsm8k_pairs, tmp_path):
    studies = ((gsm8k_pairs, 731, ["chosen", "rejected"]), (gsm8k_positives, 887, ["response"]))
    for folder, num_rows, sides in studies:
        found = study(tmp_path / folder.name, "--input", folder)
        assert (found["unit"], found["rows"]) == ("characters", num_rows)
        assert list(found["lengths"]) == ["prompt", *sides, "total"]
        files = sorted(file.name for file in (tmp_path / folder.name).iterdir())
        assert files == ["lengths.json", "lengths.md", "lengths.png", "manifest.json"]
    longest = max(len(made["rejected"][1]["content"]) for made in read_rows(gsm8k_pairs))
    pairs = json.loads((tmp_path / gsm8k_pairs.name / "lengths.json").read_text())
    assert pairs["lengths"]["rejected"]["max"] == longest


def test_json_lines_are_studied_too(tmp_path):
    rows = [{"messages": turns("ab", "abc"), "source": "aops"}, {"messages": turns("a", "four"), "source": "amc"}]
    found = study(tmp_path / "out", "--input", write_jsonl(tmp_path / "positives.jsonl", rows))
    assert (found["lengths"]["prompt"]["max"], found["lengths"]["response"]["max"]) == (2, 4)


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
