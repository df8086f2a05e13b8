"""The comparison with the paper's tables: verdicts worked by hand, and what is refused."""

import json
import math

import numpy as np
import pytest
from helpers.graded import write_graded
from reproduce import main

from redi.evaluation.reporting.reproduce import as_markdown, compare, match_runs, read_paper, sampling_error
from redi.evaluation.reporting.scores import GradedFolder, Scores
from redi.runs.errors import UsageError

PROTOCOL = {"n": 16, "temperature": 0.6, "top_p": 0.95, "max_tokens": 30720, "prompt": "paper"}


def graded(correct: dict[str, np.ndarray], **protocol) -> GradedFolder:
    def scores(array: np.ndarray) -> Scores:
        none = np.zeros_like(array)
        return Scores(tuple(range(len(array))), array, array, none, none, none, none)

    return GradedFolder("redi", None, PROTOCOL | protocol, {name: scores(array) for name, array in correct.items()})


def aime(num_correct: int, n: int = 16) -> np.ndarray:
    """30 problems: `num_correct` correct answers to the first, all to the next eight, none to the others."""
    correct = np.zeros((30, n), dtype=int)
    correct[1:9] = 1
    correct[0, :num_correct] = 1
    return correct


def cell_of(result: dict, row: str, column: str) -> dict:
    return next(cell for cell in result["cells"] if (cell["row"], cell["column"]) == (row, column))


def test_verdicts_of_table_1():
    paper = read_paper()
    cell = cell_of(compare(paper, "table1", {"redi": graded({"aime24": aime(16)})}, True), "redi", "aime24")
    # 9 of 30 always correct: 30.0 without noise, the paper 28.1 with SEM 1.1: 1.9 <= 2 * 1.1 + 0.05
    assert (cell["ours"], cell["sem"], cell["verdict"]) == (pytest.approx(30), 0, "agrees")
    assert (cell["difference"], cell["limit"]) == pytest.approx((1.9, 2.25))

    correct = aime(0)  # 8 of 30 always, one more in samples 0..7: P_j = 30 or 26.67, s = 1.667, SEM = .4167
    correct[9:13] = 1
    correct[0, :8] = 1
    cell = cell_of(compare(paper, "table1", {"redi": graded({"aime24": correct})}, True), "redi", "aime24")
    assert cell["ours"] == pytest.approx(100 * 12.5 / 30) and cell["sem"] == pytest.approx(100 / 30 / 2 / 4)
    assert cell["limit"] == pytest.approx(2 * math.hypot(100 / 240, 1.1) + 0.05)
    assert cell["verdict"] == "off"


def test_what_cannot_be_judged_says_why():
    paper = read_paper()
    few = compare(paper, "table1", {"redi": graded({"aime24": aime(4, n=4)}, n=4)}, True)
    assert cell_of(few, "redi", "aime24")["verdict"] == "not enough samples"
    assert cell_of(few, "redi", "math500")["verdict"] == cell_of(few, "sft-5ep", "aime24")["verdict"] == "not run"
    assert cell_of(few, "redi", "Avg")["verdict"] == "not run"  # four benchmarks are missing
    other = compare(paper, "table1", {"redi": graded({"aime24": aime(16)[:20]}, temperature=1.0)}, True)
    assert cell_of(other, "redi", "aime24")["verdict"] == "other protocol"
    text = as_markdown(other)
    assert "redi: temperature 1.0, the paper's 0.6; 20 problems of aime24, the paper's 30." in text
    assert "other protocol 1, not run 23." in text


def test_pass_at_16():
    few = compare(read_paper(), "table4", {"redi": graded({"aime24": aime(1, n=8)})}, True)
    cell = cell_of(few, "redi", "aime24")
    assert (cell["verdict"], cell["ours"], cell["n"]) == ("not enough samples", None, 8)
    cell = cell_of(compare(read_paper(), "table4", {"redi": graded({"aime24": aime(1)})}, True), "redi", "aime24")
    assert cell["ours"] == pytest.approx(30) and cell["paper"] == 66.7 and cell["verdict"] == "off"
    # one problem, 1 of 16 correct: p = 1.5 / 17, solved by one of 16 with q = 1 - (1 - p)^16 = .7715
    q = 1 - (1 - 1.5 / 17) ** 16
    assert sampling_error(np.array([[1] + [0] * 15]), 16) == pytest.approx(math.sqrt(q * (1 - q)))


def test_average_of_five():
    """Every problem always correct: 100 without noise; the limit is the paper's 2 * .3 and the rounding."""
    sizes = {"math500": 500, "aime24": 30, "amc23": 83, "minerva": 272, "olympiadbench": 675}
    entries = {"redi": graded({name: np.ones((size, 16), dtype=int) for name, size in sizes.items()})}
    cell = cell_of(compare(read_paper(), "table1", entries, True), "redi", "Avg")
    assert (cell["ours"], cell["paper"], cell["limit"]) == pytest.approx((100, 49.5, 0.65))


def test_the_data_file_is_consistent(shared):
    """Its averages are those of its rows, and its figures those of the collected tables."""
    paper = read_paper()
    collected = json.loads((shared / "paper_tables.json").read_text())
    names = ["MATH-500", "AIME24", "AMC23", "Minerva", "OlympiadBench", "Avg"]
    for table, facts in paper["tables"].items():
        assert [row["mean"] for row in facts["rows"].values()] == [
            [row[name]["mean"] for name in names if name in row] for row in collected[table]["rows"]
        ]
        for row in facts["rows"].values():
            if len(row["mean"]) == 6:
                assert row["mean"][5] == pytest.approx(sum(row["mean"][:5]) / 5, abs=0.101)


def test_runs_are_matched_by_row_or_folder_name(tmp_path):
    paper, folder = read_paper(), write_graded(tmp_path / "redi")
    assert list(match_runs(paper, "table1", [str(folder), f"sft-5ep={folder}"])) == ["redi", "sft-5ep"]
    with pytest.raises(UsageError, match="'reddi' is not a row of table1; did you mean 'redi'"):
        match_runs(paper, "table1", [f"reddi={folder}"])
    with pytest.raises(UsageError, match="names the row redi twice"):
        match_runs(paper, "table1", [str(folder), f"redi={folder}"])
    with pytest.raises(UsageError, match="has no graded.jsonl"):
        match_runs(paper, "table1", [f"redi={tmp_path}"])


def test_command(tmp_path, capsys):
    main(["table2", "--output", str(tmp_path / "out")])
    assert "not run 30." in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "table2.json").read_text())["cells"]) == 30
    with pytest.raises(SystemExit):
        main(["table5"])
    assert "invalid choice: 'table5'" in capsys.readouterr().err


def test_rows_on_other_problems_or_graded_whole_are_told_apart(tmp_path):
    paper = read_paper()
    runs = [write_graded(tmp_path / "redi"), write_graded(tmp_path / "sft-5ep", gold="2")]
    with pytest.raises(UsageError, match="redi and sft-5ep have different problems in math500"):
        match_runs(paper, "table1", [str(run) for run in runs])
    whole = write_graded(tmp_path / "whole", grading={"whole_responses": True})
    result = compare(paper, "table1", match_runs(paper, "table1", [f"redi={whole}"]), True)
    assert "whole responses graded, the paper's what follows </think>" in as_markdown(result)
