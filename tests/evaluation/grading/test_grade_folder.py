"""Grading a folder; the command's errors are tested with the command."""

import json

from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.grading.grade_folder import grade_folder


def test_answers_sampled_for_a_benchmark_and_its_second_golds_are_graded_once_each(tmp_path, capsys):
    answers = {"minerva": "5", "minerva_sourcebox": "6"}
    shared = [{"benchmark": name, "id": "minerva/1"} for name in answers]
    response = {"sample_idx": 0, "response": "</think> \\boxed{5}"}
    for file, more in ((GENERATIONS, [response, response]), (BENCHMARK, [{"answer": a} for a in answers.values()])):
        rows = [row | extra for row, extra in zip(shared, more, strict=True)]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_folder(tmp_path, [], tmp_path)
    graded = [json.loads(line) for line in (tmp_path / GRADED).open()]
    assert [(row["benchmark"], row["gold"], row["correct"]) for row in graded] == [
        ("minerva", "5", True),
        ("minerva_sourcebox", "6", False),
    ]
    assert "| minerva_sourcebox |       1 |       0 |" in capsys.readouterr().out
