"""Benchmark names and files, and which of them are refused."""

import json

import pytest
from helpers.evaluation import write_benchmark

from redi.evaluation.benchmarks import load_benchmark, load_benchmarks
from redi.runs.errors import UsageError


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "problem": "p"', "line 2: not valid JSON"),
        ('{"id": "x", "problem": "p"}', "line 2: no 'answer'"),
        ('{"id": "x", "problem": "p", "answer": 5}', "line 2: 'answer' must be text"),
        ('{"id": "x", "problem": "p", "answer": [["5"]]}', "line 2: 'answer' must be text or a list of texts"),
        ('{"id": "x", "problem": "p", "answer": null}', "line 2: 'answer' must be text or a list of texts"),
        ('{"id": "x", "problem": "p", "answer": " "}', "line 2: 'answer' must be text or a list of texts, none"),
        ('{"id": "x", "problem": "p", "answer": "1 + 1 = 2\\n#### "}', "line 2: 'answer' is empty"),
        ('{"id": "x", "problem": "p \\ud800", "answer": "5"}', "'problem' holds half a surrogate pair at character 3"),
        ('{"id": "x", "problem": "p", "answer": "\\udc00"}', "'answer' holds half a surrogate pair"),
        ('{"id": "x", "problem": 5, "answer": "5"}', "line 2: 'problem' must be text, not 5"),
        ('{"id": "x", "problem": " ", "answer": "5"}', "line 2: 'problem' is empty"),
        ('{"id": ["x"], "problem": "p", "answer": "5"}', "line 2: 'id' must be text or a whole number"),
        ('{"id": true, "problem": "p", "answer": "5"}', "line 2: 'id' must be text or a whole number, not True"),
        ('{"id": "p0", "problem": "p", "answer": "5"}', "line 2: id 'p0' occurs twice"),
    ],
)
def test_bad_benchmarks_name_the_line(tmp_path, line, message):
    path = write_benchmark(tmp_path / "small.jsonl", 1)
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UsageError, match=message):
        load_benchmark(str(path))


def test_other_encodings_and_equal_ids_are_refused(tmp_path):
    path = tmp_path / "small.jsonl"
    path.write_bytes('{"id": "x", "problem": "caf\u00e9", "answer": "5"}\n'.encode("latin-1"))
    with pytest.raises(UsageError, match="small.jsonl, line 1: not UTF-8"):
        load_benchmark(str(path))
    path.write_text('{"id": 1, "problem": "p", "answer": "5"}\n\n{"id": "1", "problem": "q", "answer": "6"}\n')
    with pytest.raises(UsageError, match="line 3: id '1' occurs twice"):
        load_benchmark(str(path))


def test_a_raw_answer_of_gsm8k_is_read_and_reported(tmp_path, capsys):
    answers = ["48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72\n#### 72", ["#### 1,250", "7"], "10"]
    rows = [{"id": number, "problem": "p", "answer": answer} for number, answer in enumerate(answers)]
    (tmp_path / "gsm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = load_benchmark(str(tmp_path / "gsm.jsonl")).problems
    assert [problem.answer for problem in problems] == ["72", ["1,250", "7"], "10"]
    assert "gsm.jsonl: 2 answers are solutions that end in '#### ANSWER'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math50", r"did you mean 'math500'\?"),
        ("math500", "math500.jsonl is missing; put a JSONL file of 500 rows with id, problem and answer there"),
        ("aime24", "or run `evaluate.py download --benchmark aime24`"),
    ],
)
def test_unknown_and_missing_benchmarks(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        load_benchmark(name, tmp_path)


def test_a_known_name_has_the_papers_rows(tmp_path):
    write_benchmark(tmp_path / "aime24.jsonl", 31)
    with pytest.raises(UsageError, match="has 31 rows; aime24 has 30"):
        load_benchmark("aime24", tmp_path)


def test_two_benchmarks_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [str(write_benchmark(folder / "small.jsonl", 1)) for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(UsageError, match="are both named 'small'"):
        load_benchmarks(paths)
