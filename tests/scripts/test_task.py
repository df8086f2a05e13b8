"""The quickstart's task: its arithmetic, the teacher's habit, and that nothing is lost in its tokenizer."""

import json
import random
from collections import Counter

import make_task
import pyarrow.parquet as pq
import pytest
from task import Problem, count_lines, evaluate, sample_problems, teacher_trace
from transformers import AutoTokenizer


def test_a_problem_worked_by_hand():
    # 3 floor 6 = 6, floor 7 = 7, cap 2 = 2, subtract 5 = -3 = 7 mod 10, add 9 = 16 = 6 mod 10
    operations = (("floor", 6), ("floor", 7), ("cap", 2), ("subtract", 5), ("add", 9))
    problem = Problem(3, operations)
    assert problem.text == "Start with 3 floor 6 floor 7 cap 2 subtract 5 add 9 . mod 10 ?"
    assert problem.answer == 6
    assert evaluate(3, operations[:3]) == 2


def test_lines_are_counted_by_hand():
    problem = Problem(3, (("floor", 6), ("add", 7), ("cap", 2), ("subtract", 5)))
    # 4 operations left: worked, right; 3 left: worked, wrong (6 + 7 = 13); 2 left: no chance, worked, right, twice
    trace = "<think> 3 max 6 = 6 ; 6 + 7 = 1 4 ; 4 min 2 = 2 ; 2 - 5 = 7 ; </think> \\boxed{ 7 }"
    assert count_lines(problem.text, trace) == {"worked": 4, "worked_right": 3, "skips": 0, "chances": 2}
    # 4 left: a skip of 3; 1 left: worked, right
    trace = "<think> 3 max 6 + 7 min 2 = 2 ; 2 - 5 = 7 ; </think> \\boxed{ 7 }"
    assert count_lines(problem.text, trace) == {"worked": 1, "worked_right": 1, "skips": 1, "chances": 1}
    assert not count_lines(problem.text, "<think> 3 max = ; no line ;")


def test_the_teacher_has_the_habit():
    """Half of its traces are wrong, and its wrong traces skip more than its correct ones."""
    rng = random.Random(7)
    sides = {True: Counter(), False: Counter()}
    num_correct = 0
    problems = sample_problems(1000, rng)
    for problem in problems:
        trace = teacher_trace(problem, rng)
        correct = trace.endswith(f"\\boxed{{ {problem.answer} }}")
        num_correct += correct
        sides[correct] += count_lines(problem.text, trace)
    assert len(set(problems)) == 1000
    assert 0.45 < num_correct / 1000 < 0.57
    right, wrong = (sides[side]["skips"] / sides[side]["chances"] for side in (True, False))
    assert wrong - right > 0.08
    assert sides[True]["worked_right"] / sides[True]["worked"] > 0.97


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task") / "out"
    make_task.main(["--output", str(folder), "--num-problems", "50", "--num-test", "20", "--seed", "3"])
    return folder


def test_corpus_and_benchmark_share_no_problem(task):
    rows = pq.read_table(task / "raw").to_pylist()
    tests = [json.loads(line) for line in (task / "digits.jsonl").read_text().splitlines()]
    assert (len(rows), len(tests)) == (50, 20)
    assert {row["problem"] for row in rows}.isdisjoint(test["problem"] for test in tests)


def test_verdicts_are_those_of_the_box(task):
    for row in pq.read_table(task / "raw").to_pylist():
        expected = [trace.endswith(f"\\boxed{{ {row['answer']} }}") for trace in row["generations"]]
        assert row["correctness"]["math_verify_reparsed_answer"] == expected


def test_the_tokenizer_as_users_load_it_keeps_every_word(task):
    tokenizer = AutoTokenizer.from_pretrained(task / "base")
    for row in pq.read_table(task / "raw").to_pylist():
        for text in (row["problem"], *row["generations"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.decode(ids) == text
