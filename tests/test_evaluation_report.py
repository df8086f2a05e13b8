"""The report: its numbers against a folder worked by hand, and what it refuses."""

import json

import pytest
from evaluation_fixtures import main

from redi.evaluation.records import CONFIG, GRADED
from redi.evaluation.report import report
from redi.evaluation.tables import grid
from redi.runs import UsageError

CORRECT = [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]]
PROTOCOL = {
    "n": 4,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_tokens": 100,
    "prompt": "paper",
    "backend": "vllm",
    "seed": 1,
}


def write_graded(folder, correct=CORRECT, benchmarks=("math500",), **protocol):
    folder.mkdir()
    rows = [
        {
            "benchmark": name,
            "id": f"p{i}",
            "sample_idx": j,
            "finish_reason": "length" if (i, j) == (3, 0) else "stop",
            "num_tokens": 100 if (i, j) == (3, 0) else 20,
            "correct": bool(value),
            "status": {(3, 0): "no_think_end", (3, 1): "no_answer", (3, 2): "timeout"}.get((i, j), "ok"),
        }
        for name in benchmarks
        for i, values in enumerate(correct)
        for j, value in enumerate(values)
    ]
    (folder / GRADED).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / CONFIG).write_text(json.dumps(PROTOCOL | protocol))
    return folder


def test_numbers(tmp_path, capsys):
    report([write_graded(tmp_path / "sft")], tmp_path / "table", [])
    (row,) = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    cell = row["benchmarks"]["math500"]
    assert cell["pass_at_1"] == pytest.approx(0.55)
    assert cell["sem"] == pytest.approx(0.043301, abs=1e-6)
    assert cell["pass_at_k"]["4"] == pytest.approx(0.8)
    assert list(cell["pass_at_k"]) == ["1", "2", "4"]
    assert cell["mean_tokens"] == pytest.approx((19 * 20 + 100) / 20)
    assert (cell["truncated"], cell["no_answer"]) == (0.05, 0.1)
    text = (tmp_path / "table" / "table.md").read_text(encoding="utf-8")
    assert (
        "| sft         | 55.0 \N{PLUS-MINUS SIGN} 4.3 |       80.0 |          24 |           5.0 |          10.0 |"
        in text
    )
    assert "n 4, temperature 0.6, top_p 0.95, max_tokens 100, prompt paper, backend vllm, seed 1." in text
    assert "timeouts: sft 1." in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "table" / "pass_at_1.png").stat().st_size > 5000
    assert (tmp_path / "table" / "manifest.json").is_file()


def test_several_benchmarks_and_a_baseline(tmp_path):
    better = [[1] * 4 for _ in CORRECT]
    folders = [
        write_graded(tmp_path / "sft", benchmarks=("b", "a")),
        write_graded(tmp_path / "redi", better, ("a", "b")),
    ]
    report(folders, tmp_path / "table", ["sft"])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    sft, redi = table["rows"]
    assert sft["average"] == pytest.approx({"pass_at_1": 0.55, "sem": 0.043301 / 2**0.5}, abs=1e-6)
    assert redi["benchmarks"]["a"]["differences"]["sft"]["mean"] == pytest.approx(0.45)
    assert sft["benchmarks"]["a"]["differences"] == {}
    text = (tmp_path / "table" / "table.md").read_text(encoding="utf-8")
    assert text.splitlines()[0].split() == ["|", "pass@1", "(%)", "|", "a", "|", "b", "|", "Avg", "|"]
    assert "pass@1 minus sft" in text and "+45.0 [" in text


def test_a_baseline_folder_becomes_the_first_row(tmp_path):
    folders = [write_graded(tmp_path / name) for name in ("sft", "redi")]
    report(folders[1:], tmp_path / "table", [str(folders[0])])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["sft", "redi"]
    assert table["rows"][1]["benchmarks"]["math500"]["differences"]["sft"] == {"mean": 0, "low": 0, "high": 0}


def test_seeds_may_differ_and_are_both_named(tmp_path):
    report([write_graded(tmp_path / "a"), write_graded(tmp_path / "b", seed=2)], tmp_path / "table", [])
    assert "seed [1, 2]" in (tmp_path / "table" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"temperature": 1.0}, "a has temperature 0.6, b has 1.0"),
        ({"correct": CORRECT[:4]}, "other problems in math500, such as 'p4'"),
        ({"benchmarks": ["aime24"]}, "a has math500, b has aime24"),
        ({"correct": [row[:2] for row in CORRECT]}, "a has 4 samples a problem, b has 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, other, message):
    folders = [write_graded(tmp_path / "a"), write_graded(tmp_path / "b", **other)]
    with pytest.raises(UsageError, match=message):
        report(folders, tmp_path / "table", [])


def test_an_unfinished_folder_is_refused(tmp_path):
    folder = write_graded(tmp_path / "a")
    lines = (folder / GRADED).read_text().splitlines(keepends=True)
    (folder / GRADED).write_text("".join(lines[:-1]))
    with pytest.raises(UsageError, match="sample 3 of 'p4' is missing"):
        report([folder], tmp_path / "table", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a", "b"], "b has no graded.jsonl"),
        (["--input", "a", "--baseline", "c"], "--baseline c is neither a folder nor one of: a"),
        (["--input", "a", "a"], "names a folder twice"),
        (["--inputs", "a"], "--input"),
    ],
)
def test_bad_options_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_graded(tmp_path / "a")
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments, "--output", "t"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1 and message in error


def test_grid_aligns_columns():
    assert grid(["a", "b"], [["long", "1"]]) == "| a    | b |\n|------|--:|\n| long | 1 |"
