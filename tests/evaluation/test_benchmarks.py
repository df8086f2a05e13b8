"""Benchmark names and files, and which of them are refused."""

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
        ('{"id": "p0", "problem": "p", "answer": "5"}', "line 2: id 'p0' occurs twice"),
    ],
)
def test_bad_benchmarks_name_the_line(tmp_path, line, message):
    path = write_benchmark(tmp_path / "small.jsonl", 1)
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UsageError, match=message):
        load_benchmark(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math50", r"did you mean 'math500'\?"),
        ("math500", "math500.jsonl is missing; put a JSONL file of 500 rows with id, problem and answer there"),
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
