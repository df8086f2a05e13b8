"""The study of lengths: what it counts, what limits drop, and its files."""

import json

import pyarrow as pa
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


def test_every_shape_of_a_pair_has_the_same_lengths(tmp_path):
    """Text, conversations, an assistant's turn after a `prompt` of messages or text, and content in parts."""
    user, answers = turns("ab", "")[:1], {"chosen": "abc", "rejected": "four"}
    in_parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    shapes = [
        {"prompt": "ab"} | answers,
        {"prompt": "ignored"} | {side: turns("ab", text) for side, text in answers.items()},
        {"prompt": user} | {side: turns("ab", text)[1:] for side, text in answers.items()},
        {"prompt": "ab"} | {side: turns("ab", text)[1:] for side, text in answers.items()},
        {side: turns(in_parts, [{"type": "text", "text": text}]) for side, text in answers.items()},
        {side: [{"role": "system", "content": "a"}, *turns("b", text)] for side, text in answers.items()},
    ]
    for number, shape in enumerate(shapes):
        pq.write_table(pa.Table.from_pylist([shape | {"source": None}]), tmp_path / f"{number}.parquet")
        found = study(tmp_path / f"out{number}", "--input", tmp_path / f"{number}.parquet")
        lengths = {name: of_rows["max"] for name, of_rows in found["lengths"].items()}
        assert lengths == {"prompt": 2, "chosen": 3, "rejected": 4, "total": 9}, shape


GOOD = {"messages": turns("p", "x")}
ROLES = "must end with an assistant turn after a prompt, or be one assistant turn after the messages of `prompt`; its"
SHAPE = "must be a list of messages {'role': ..., 'content': text}, not"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": turns("p", "x")[:1]}, f"`messages` {ROLES} roles are ['user']"),
        ({"messages": turns("p", "x")[::-1]}, f"`messages` {ROLES} roles are ['assistant', 'user']"),
        ({"messages": turns("p", "x")[1:]}, f"`messages` {ROLES} roles are ['assistant']"),
        ({"messages": []}, f"`messages` {SHAPE} []"),
        ({"messages": None}, f"`messages` {SHAPE} None"),
        ({"messages": [None, None]}, f"`messages` {SHAPE} None"),
        ({"messages": turns("p", None)}, f"`messages` {SHAPE} {{'role': 'assistant', 'content': None}}"),
        ({"messages": [{"role": None, "content": "p"}, *turns("p", "x")[1:]]}, f"`messages` {SHAPE} {{'role': None"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, capsys, row, message):
    rows = pa.Table.from_pylist([made | {"source": "s"} for made in (GOOD, GOOD, row)])
    pq.write_table(rows, tmp_path / "rows.parquet")
    error = fails(capsys, "study_lengths", "--input", tmp_path / "rows.parquet", "--output", tmp_path / "out")
    assert "row 2: " in error and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, f"row 0: `chosen` {ROLES} roles are ['assistant']"),
        ({"chosen": turns("p", "a"), "rejected": turns("q", "b")}, "hold different prompts"),
        ({"chosen": [{"from": "human", "value": "p"}], "rejected": [{"from": "gpt", "value": "x"}]}, SHAPE),
        ({"prompt_len": None, "chosen_len": 1, "rejected_len": 1}, "row 0: 'prompt_len' is None"),
        ({"prompt_len": 3, "chosen_len": -1, "rejected_len": 1}, "row 0: 'chosen_len' is -1"),
        ({"prompt_len": 3, "chosen_len": 1.5, "rejected_len": 1}, "row 0: 'chosen_len' is 1.5"),
    ],
)
def test_a_pair_that_cannot_be_measured_is_named(tmp_path, capsys, pair, message):
    pq.write_table(pa.Table.from_pylist([pair | {"source": "s"}]), tmp_path / "rows.parquet")
    assert message in fails(
        capsys, "study_lengths", "--input", tmp_path / "rows.parquet", "--output", tmp_path / "out"
    )


def test_tokens_are_counted_of_a_user_turn_alone(tmp_path, model_path, capsys):
    rows = [{"messages": [{"role": "system", "content": "s"}, *turns("p", "x")], "source": "s"}]
    arguments = ["--input", write_jsonl(tmp_path / "rows.jsonl", rows), "--output", tmp_path / "out"]
    error = fails(capsys, "study_lengths", *arguments, "--tokenizer", model_path)
    assert "row 0: the prompt holds system, user; --tokenizer counts one user turn alone" in error


@pytest.mark.parametrize("name", ["assistantfirst", "emptyrej", "nullcontent", "nulllen", "turns13"])
def test_files_from_the_field_are_refused_by_row(shared, tmp_path, capsys, name):
    source = shared / "field/data/dpo" / f"{name}.parquet"
    error = fails(capsys, "study_lengths", "--input", source, "--output", tmp_path / "out")
    assert f"row {1 if name == 'emptyrej' else 0}: " in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-prompt-tokens", "9"], "--max-prompt-tokens: {input} holds no token counts; pass --tokenizer"),
        (["--length-rule", "exact"], "--length-rule needs a tokenizer"),
        (["--input", "nowhere"], "--input nowhere does not exist"),
        (["--input", "{corpus}"], "holds neither pairs (chosen, rejected) nor positives (messages)"),
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
