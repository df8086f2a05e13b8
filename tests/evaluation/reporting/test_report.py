"""The report: its numbers against a folder worked by hand, and the inputs that it refuses."""

import json
from pathlib import Path

import pytest
from helpers.evaluation import main
from helpers.graded import CORRECT, write_graded

from redi.evaluation.files import GRADED
from redi.evaluation.reporting.report import report
from redi.evaluation.reporting.scores import name_folders
from redi.runs.errors import UsageError


def test_numbers(tmp_path, capsys):
    report([write_graded(tmp_path / "sft")], tmp_path / "table", [], show_disagreements=True)
    (row,) = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    cell = row["benchmarks"]["math500"]
    assert cell["pass_at_1"] == pytest.approx(0.55)
    assert cell["sem"] == pytest.approx(0.043301, abs=1e-6)
    assert cell["pass_at_k"]["4"] == pytest.approx(0.8)
    # c = 4, 3, 1, 0, 3 of 4: pass@2 = (1 + 1 + (1 - 3/6) + 0 + 1) / 5, pass@3 = (1 + 1 + (1 - 1/4) + 0 + 1) / 5
    assert cell["pass_at_k"] == pytest.approx({"1": 0.55, "2": 0.7, "3": 0.75, "4": 0.8})
    assert cell["low"] < 0.25 and cell["high"] > 0.8  # five problems say little about a sixth
    assert cell["waits_per_response"] == 2 and cell["waits_per_token"] == pytest.approx(40 / 480)
    # one of 20 verdicts differs: P = .4 .4 .6 .6
    assert cell["rllm_style"] == pytest.approx({"pass_at_1": 0.5, "sem": 0.05, "disagreement": 0.05})
    assert cell["mean_tokens"] == pytest.approx((19 * 20 + 100) / 20)
    assert (cell["truncated"], cell["no_answer"]) == (0.05, 0.1)
    text = (tmp_path / "table" / "table.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| sft "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["sft", "55.0 \N{PLUS-MINUS SIGN} 4.3"] and cells[3:6] == ["80.0", "50.0", "5.00"]
    assert cells[6:] == ["24", "5.0", "10.0", "2.0", "83.33"]
    assert "n 4, temperature 0.6, top_p 0.95, max_tokens 100, prompt paper, backend vllm, seed 1." in text
    assert "timeouts: sft 1." in text
    printed = capsys.readouterr().out
    assert text in printed
    listed = [cell.strip() for cell in printed.splitlines()[-1].strip("|").split("|")]
    assert listed == ["sft", "math500", "p0", '"1"', "1", "correct", "1"]
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
    assert " ".join(text.splitlines()[0].split()) == "| pass@1 (%) | a | b | Avg | Avg minus sft |"
    # the same gain on every benchmark: that of the mean, with a narrower interval than that of either
    mean, one = redi["average_differences"]["sft"], redi["benchmarks"]["a"]["differences"]["sft"]
    assert mean["mean"] == pytest.approx(0.45) and one["low"] <= mean["low"] < mean["high"] <= one["high"]
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
        ({"correct": CORRECT[:4]}, "different problems in math500, such as 'p4'"),
        ({"benchmarks": ["aime24"]}, "a has math500, b has aime24"),
        ({"correct": [row[:2] for row in CORRECT]}, "a has 4 samples per problem, b has 2"),
        ({"gold": "2"}, "different problems in math500: the reference answer of 'p0' differs"),
        ({"gold": ["1", "2"]}, "different problems in math500: the reference answer of 'p0' differs"),
        ({"prompt": "What is that?"}, "different problems in math500: the text of 'p0' differs"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, other, message):
    folders = [write_graded(tmp_path / "a"), write_graded(tmp_path / "b", **other)]
    with pytest.raises(UsageError, match=message):
        report(folders, tmp_path / "table", [])


def test_the_same_problems_in_other_templates_are_compared(tmp_path):
    """Prompts of different templates differ. If one folder has the problems, the other's prompts hold them."""
    folders = [
        write_graded(tmp_path / "a", chat_template_sha256="a", gold=["1"]),
        write_graded(tmp_path / "b", chat_template_sha256="b", prompt="Q: What is it? A:"),
    ]
    report(folders, tmp_path / "table", [])
    problems = [{"benchmark": "math500", "id": f"p{i}", "problem": "What is it?", "answer": "1"} for i in range(5)]

    def write(folder) -> None:
        (folder / "benchmark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))

    write(folders[0])
    report(folders, tmp_path / "table", [])
    problems[3]["problem"] = "What is that?"
    write(folders[1])
    with pytest.raises(UsageError, match="the text of 'p3' differs"):
        report(folders, tmp_path / "table", [])
    (folders[0] / "benchmark.jsonl").unlink()
    with pytest.raises(UsageError, match="the text of 'p3' differs"):
        report(folders, tmp_path / "table", [])


def test_a_benchmark_that_only_one_row_has_is_left_out_and_named(tmp_path):
    folders = [
        write_graded(tmp_path / "a", benchmarks=("aime24", "math500"), n=None),
        write_graded(tmp_path / "b"),
        write_graded(tmp_path / "c", benchmarks=("math500", "x")),
    ]
    report(folders, tmp_path / "table", [])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert [list(row["benchmarks"]) for row in table["rows"]] == [["math500"]] * 3
    text = (tmp_path / "table" / "table.md").read_text()
    assert "Left out, since not every row has them: a: aime24; c: x." in text


def test_other_revisions_of_the_grader_and_whole_responses_are_named(tmp_path):
    packages = {"math-verify": "0.9.0"}
    gradings = {
        "a": {"git_revision": "1" * 40, "packages": packages},
        "b": {"git_revision": "2" * 40, "packages": packages, "whole_responses": True},
        "c": {"thoughts_closed_by_prompt": 20},
    }
    folders = [write_graded(tmp_path / name, grading=grading) for name, grading in gradings.items()]
    report(folders[:1], tmp_path / "one", [])
    assert "revisions differ" not in (tmp_path / "one" / "table.md").read_text()
    report(folders, tmp_path / "table", [])
    for file in ("table.md", "table.tex", "report.html"):
        text = (tmp_path / "table" / file).read_text()
        assert f"Graders' revisions differ: a by {'1' * 40}, math-verify 0.9.0; b by {'2' * 40}" in text.replace(
            "&#39;", "'"
        )
        assert "b (--whole-responses), c (the prompt closes the thought)" in text
    assert "c by not recorded" in text


def test_rows_of_equal_folders_are_named_by_what_tells_them_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_graded(tmp_path / "runs" / stage / "evaluation" / "lora") for stage in ("sft", "redi")]
    write_graded(tmp_path / "base")
    report([*folders, tmp_path / "base"], tmp_path / "table", ["sft/lora"])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["sft/lora", "redi/lora", "base"]
    assert name_folders(["a/x/n", "a/y/n", "b/y/n", "n"]).keys() == {"x/n", "a/y/n", "b/y/n", f"{tmp_path.name}/n"}
    assert name_folders(["first=a/n", "b=c=d/n"]) == {"first": Path("a/n"), "b": Path("c=d/n")}
    (tmp_path / "alpha=1").mkdir()
    assert name_folders(["alpha=1", "n=alpha=1"]) == {"alpha=1": Path("alpha=1"), "n": Path("alpha=1")}
    with pytest.raises(UsageError, match="--baseline lora may be any of sft/lora, redi/lora; name one of these"):
        report(folders, tmp_path / "table", ["lora"])
    main(["report", "--input", f"one={folders[0]}", f"two={folders[1]}", "--output", "named", "--baseline", "two"])
    table = json.loads((tmp_path / "named" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["one", "two"] and table["baselines"] == ["two"]
    for inputs in (["n=a", "n=b"], ["a/n", "a/n"], ["a/n", "n=b"]):
        with pytest.raises(UsageError, match="names a folder twice"):
            name_folders(inputs)


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
        (["--input", "x=a", "x=a"], "--input names a folder twice: x; write NAME=DIR to name a row"),
        (["--input", "x=c"], "c has no graded.jsonl"),
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


def test_the_first_of_several_inputs_is_the_default_baseline(tmp_path):
    folders = [write_graded(tmp_path / name) for name in ("sft", "redi")]
    report(folders, tmp_path / "table", [])
    assert json.loads((tmp_path / "table" / "table.json").read_text())["baselines"] == ["sft"]


def test_second_golds_of_the_same_problems_do_not_count_in_the_average(tmp_path):
    folder = write_graded(tmp_path / "a", benchmarks=("minerva", "minerva_sourcebox", "aime24"))
    report([folder], tmp_path / "table", [])
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert list(table["rows"][0]["benchmarks"]) == ["aime24", "minerva", "minerva_sourcebox"]
    assert table["averaged"] == ["aime24", "minerva"]
    assert table["rows"][0]["average"]["sem"] == pytest.approx(0.043301 / 2**0.5, abs=1e-6)


def test_a_folder_cut_between_problems_is_refused(tmp_path):
    folder = write_graded(tmp_path / "a")
    lines = (folder / GRADED).read_text().splitlines(keepends=True)
    (folder / GRADED).write_text("".join(lines[:16]))  # four problems of five
    (folder / "manifest.json").write_text(json.dumps({"grading": {"counts": {"math500": {"samples": 20}}}}))
    with pytest.raises(UsageError, match="has 16 rows of 20: it was cut; grade the folder again"):
        report([folder], tmp_path / "table", [])
    (folder / "manifest.json").unlink()
    (folder / "benchmark.jsonl").write_text(json.dumps({"benchmark": "math500", "id": "p4"}) + "\n")
    with pytest.raises(UsageError, match="no samples of math500 'p4'"):
        report([folder], tmp_path / "table", [])
    (folder / GRADED).write_text("".join(lines)[:-9])
    with pytest.raises(UsageError, match="graded.jsonl, line 20: not valid JSON"):
        report([folder], tmp_path / "table", [])
