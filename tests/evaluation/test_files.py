"""Rows of generations.jsonl, graded.jsonl and benchmark.jsonl: a value of the wrong kind names file, line and key."""

import json

import pytest
from helpers.evaluation import main, refusal

ROW = {"benchmark": "small", "id": "a", "sample_idx": 0, "prompt": "What is 1?", "response": "</think> \\boxed{1}"}
ROW |= {"finish_reason": "stop", "num_tokens": 3}
GRADED = ROW | {"correct": True, "status": "ok", "answer": "1", "gold": "1", "correct_rllm_style": True}
ASKED = {"benchmark": "small", "id": "a", "problem": "What is 1?", "answer": "1"}


def write(folder, asked: list[dict] = (ASKED,), **files: list[dict]):
    """A folder of answers, the other rows of whose files are right."""
    folder.mkdir(exist_ok=True)
    for name, rows in ({"generations": [ROW], "benchmark": asked} | files).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("key", "values", "kind"),
    [
        ("id", [["a"], None, 1.5, True, {}], "text or a whole number"),
        ("benchmark", [["small"], 5], "text"),
        ("sample_idx", [None, "0", [0], -1, 0.5], "a whole number of at least 0"),
        ("num_tokens", [None, "3", float("nan"), -3], "a whole number of at least 0"),
        ("response", [None, 5, ["x"]], "text"),
        ("finish_reason", [None, 1], "text"),
    ],
)
def test_a_bad_value_of_an_answer_is_one_line(tmp_path, capsys, key, values, kind):
    for value in values:
        folder = write(tmp_path / "out", generations=[ROW | {"id": "b"}, ROW | {key: value}])
        error = refusal(["grade", "--input", str(folder)], capsys)
        assert f"generations.jsonl, line 2: '{key}' must be {kind}, not {value!r}" in error
        folder = write(tmp_path / "out", graded=[GRADED | {"id": "b"}, GRADED | {key: value}])
        error = refusal(["report", "--input", str(folder), "--output", str(tmp_path / "t")], capsys)
        assert f"graded.jsonl, line 2: '{key}' must be {kind}" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("correct", ["yes", None, 1]),
        ("correct_rllm_style", ["yes"]),
        ("status", [["ok"], None]),
        ("answer", [5, ["1"]]),
        ("gold", [None, 5, [], ["1", 5], [["1"]], "", {}]),
    ],
)
def test_a_bad_value_of_a_verdict_is_one_line(tmp_path, capsys, key, values):
    for value in values:
        folder = write(tmp_path / "out", graded=[GRADED | {key: value}])
        error = refusal(["report", "--input", str(folder), "--output", str(tmp_path / "t")], capsys)
        assert f"graded.jsonl, line 1: '{key}' must be" in error and error.count("\n") == 1


@pytest.mark.parametrize("value", [5, None, [], ["1", 5], [["1"]], "", " ", [""], {"a": 1}, True])
def test_a_bad_reference_answer_is_one_line(tmp_path, capsys, value):
    folder = write(tmp_path / "out", asked=[ASKED | {"answer": value}])
    error = refusal(["grade", "--input", str(folder)], capsys)
    assert "benchmark.jsonl, line 1: 'answer' must be text or a list of texts" in error and error.count("\n") == 1


def test_the_ids_1_and_text_1_are_the_same(tmp_path, capsys):
    folder = write(tmp_path / "out", asked=[ASKED | {"id": "1"}], generations=[ROW | {"id": 1}])
    main(["grade", "--input", str(folder)])
    (row,) = [json.loads(text) for text in (folder / "graded.jsonl").open()]
    assert row["id"] == 1 and row["correct"]
    main(["report", "--input", str(folder), "--output", str(tmp_path / "t")])
    write(tmp_path / "out", asked=[ASKED | {"id": 1}, ASKED | {"id": "1"}])
    assert "benchmark.jsonl, line 2: id '1' of small occurs twice" in refusal(
        ["grade", "--input", str(folder)], capsys
    )


@pytest.mark.parametrize("second", [{}, {"id": 1}])
def test_a_sample_that_occurs_twice_names_both_lines(tmp_path, capsys, second):
    rows = [ROW | {"id": "1"}, ROW | {"id": "b"}, ROW | {"id": "1"} | second]
    folder = write(tmp_path / "out", generations=rows)
    wanted = "line 3: sample 0 of small '1' occurs twice, first on line 1; remove one of the lines"
    assert f"generations.jsonl, {wanted}" in refusal(["grade", "--input", str(folder)], capsys)
    write(folder, graded=[GRADED | row for row in rows])
    assert f"graded.jsonl, {wanted}" in refusal(["report", "--input", str(folder), "--output", "t"], capsys)


@pytest.mark.parametrize("text", ["{", "[]", "\xe9"])
def test_damaged_options_are_one_line(tmp_path, capsys, text):
    folder = write(tmp_path / "out", graded=[GRADED])
    (folder / "sampling.json").write_text(text, encoding="latin-1")
    error = refusal(["report", "--input", str(folder), "--output", str(tmp_path / "t")], capsys)
    assert "sampling.json: not " in error and error.count("\n") == 1
