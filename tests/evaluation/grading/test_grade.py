"""The grader: every trap it was written for, hostile model text, and the worker processes behind it."""

import json
import os
import threading
import time

import psutil
import pytest
from helpers.paths import SHARED

from redi.evaluation.grading import worker_pool as workers
from redi.evaluation.grading.grade import grade_many, grade_response, last_box
from redi.runs.files import cpus


def boxed(answer: str) -> str:
    return f"<think>\nA guess is \\boxed{{-987654321}}.\n</think>\n\nThe answer is $\\boxed{{{answer}}}$."


# (gold, answer, equal)
TEXT_AND_NUMBERS = [
    ("142", "142.0", True),
    ("073", "73", True),  # AIME golds have leading zeros
    ("36.0", "36.", True),
    (r"\frac{1}{2}", ".5", True),
    (r"\frac{7}{4}", r"1 \frac{3}{4}", True),  # a mixed number, not a product
    (r"\frac{11}{2}", r"1\frac{1}{2}", False),
    (r"$\frac{4}{9}$", r"\frac49", True),
    (r"-\frac{4}{5}", r"\frac{-4}{5}", True),
    ("1/7", "0.142857", False),  # rounded is not equal
    ("1", "0.9999999999999", False),
    ("1", r"\frac{0}{0}", False),
    ("14,000", "14000", True),  # thousands separators
    ("140000", "140{,}000", True),
    (r"11,\! 111,\! 111,\! 100", "11111111100", True),
    ("1510", r"1\,510", True),
    ("1234", "(1,234)", False),  # a pair
    ("12", "1,2", False),  # a list
    (r"\frac{7}{6}", r"1.1\overline{6}", True),
    ("0.3", r"0.\overline{3}", False),
    ("1e-5", "1e-5.", True),
    ("100", "1{,}00{,}1", False),
    ("100,200", "200,100", True),  # a list although it looks like a number
    ("4.5e33", r"4.5 \times 10^{33}", True),
    ("1e-5", "0.00001", True),
    ("4.5e33", "4.5e32", False),
    (r"10\%", r"10\text{ percent}", True),
    ("50", "0.5", False),
    (r"\$18.90", "18.9", True),
    (r"30^\circ", "30°", True),
    ("5", "5\u200b", True),  # zero-width space
    ("5", "５", True),  # full-width digit
    ("5", "６", False),
    (r"\frac{1}{2}", "½", True),
    ("x^2", "x²", True),
    ("-5", "5−", False),
    (r"\infty", "∞", True),
]
UNITS_AND_WORDS = [
    ("4", "4 cm", True),
    (r"15\mbox{ cm}^2", "15", True),
    (r"864 \mbox{ inches}^2", r"864\text{ square inches}", True),
    (r"5\text{ cm}", r"5\text{ m}", False),
    ("16", "16 square units", True),
    ("7", r"7^{\text{th}}", True),
    ("8", r"8\text{ or more}", False),  # text that changes the answer is no unit
    ("8", r"8\text{ million}", False),
    ("6m", "6", False),  # a variable is no unit
    ("7.6Z", "7.6", False),
    (r"\text{ellipse}", r"\text{an ellipse}", True),
    (r"\text{even}", r"\textbf{Even}", True),
    (r"\text{ant}", r"\text{tan}", False),  # a product of letters would be equal
    (r"\text{(C)}", "C", True),
    ("m", "M", False),  # math-verify ignores case
    ("2516_8", "2516_{8}", True),
    ("10", "10_2", False),  # math-verify drops the base
]
STRUCTURE = [
    ("1,-2", "-2, 1", True),  # the order of a list does not count,
    ("(1,2)", "(2,1)", False),  # that of a tuple does,
    ("(2,2,2),(3,4,3)", "(3,4,3), (2,2,2)", True),  # and a list of tuples has both
    ("$69$,$84$", r"\{84, 69\}", True),
    ("3,4", r"3 \text{ and } 4", True),
    ("2,3,5", r"2, 3\text{, and }5", True),
    ("60", r"60 \text{ or } 120", False),
    ("5,15", "x=5, x=15", True),
    ("-1,0,1", "-1, 0", False),
    ("-1,0,1", "-1, 0, 1, 7", False),
    (r"1\pm\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}", True),
    ("[2,5)", r"x \in [2,5)", True),
    ("[0,1]", "[0,1)", False),
    (r"(2,\infty)", r"\left( 2, +\infty \right)", True),
    ("(3,\\infty)", "x>3", True),
    ("1 < x < 2", "(1,2)", True),
    (r"(-\infty,1)\cup(3,\infty)", r"x<1 \text{ or } x>3", True),
    ("8", r"x \ge 8", False),
    ("(3,4]", "(4,3]", False),  # both empty as sets
    ("4", "x + y = 4", True),
    ("x=5", "5", True),
    ("f(x)=2x", "g(x)=2x", False),
    (r"\sqrt{51}", r"\sqrt{51}\approx 7.14", True),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ \frac23 \end{bmatrix}", True),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", False),
]
ALGEBRA = [
    ("x^2-x-2", "(x+1)(x-2)", True),
    ("x^2+1", "x^2-1", False),
    (r"10\sqrt{2}", r"\sqrt{200}", True),
    ("2^{10}", "1024", True),
    (r"\ln 2", r"\log 2", True),
    (r"2\sin x\cos x", r"\sin 2x", True),
    ("2i", "(1+i)^2", True),  # math-verify takes i for a variable
    (r"\frac{mM}{m+M}", r"\frac{m}{2}", False),  # the same if M were m
    (r"\pi", "3.141593", False),  # math-verify rounds to six places
    (r"\frac{\pi}{10^{10}}", r"\frac{2\pi}{10^{10}}", False),
    (r"(3,\sqrt{2})", r"(5,\sqrt{3})", False),
    (r"\frac{1}{3+\sqrt{2}}", r"\frac{3-\sqrt{2}}{7}", True),
    ("5", r"\begin{pmatrix} 5 \\ 5 \end{pmatrix}", False),
    (r"3 \cdot 2^{n}", r"2^{n+1}+2^n", True),  # both empty intervals to math-verify
]


@pytest.mark.parametrize(("gold", "answer", "expected"), TEXT_AND_NUMBERS + UNITS_AND_WORDS + STRUCTURE + ALGEBRA)
def test_equality(gold, answer, expected):
    grade = grade_response(boxed(answer), gold)
    assert (grade.correct, grade.status) == (expected, "ok")
    assert grade.answer == answer.strip()


@pytest.mark.parametrize(
    ("response", "status", "answer"),
    [
        ("", "no_think_end", None),
        (r"\boxed{5}", "no_think_end", None),
        (r"<think>\boxed{5}", "no_think_end", None),
        (r"<think>\boxed{5}</think> as above", "no_answer", None),  # a box in the thought does not count
        (r"</think> \boxed{\frac{1}{2", "no_answer", None),  # cut off
        (r"</think> \boxed 5", "no_answer", None),
        (r"</think> \fbox{5}", "no_answer", None),
        (r"</think> \boxed{ }", "no_answer", None),
        (r"</think> \boxed{4} </think> \boxed{5}", "ok", "5"),  # the last tag
        (r"</think> \boxed{4}, no: \boxed {5} since {x}", "ok", "5"),  # the last box
        (r"</think> \boxed{5}, so \boxed{4", "ok", "5"),  # the last one that closes
        (r"</think> \boxed{\boxed{5}}", "ok", "5"),
    ],
)
def test_where_the_answer_is(response, status, answer):
    grade = grade_response(response, "5")
    assert (grade.status, grade.answer, grade.correct) == (status, answer, status == "ok")


def test_last_box_balances_braces_and_skips_escaped_ones():
    assert last_box(r"\boxed{\left\{ \frac{1}{2} \right.} {") == r"\left\{ \frac{1}{2} \right."
    assert last_box("}} \\boxed{a} }") == "a"


def test_any_gold_of_a_list_counts():
    assert grade_response(boxed("6630"), ["6630.65", "6630"]).correct
    assert not grade_response(boxed("6631"), ["6630.65", "6630"]).correct
    assert grade_response(boxed("12"), r"$\boxed{12}$").correct


HOSTILE = [
    "9**9**9**9",
    "10**10**10",
    "99999999!",
    "2^{1000000000}",
    "(" * 3000 + "x" + ")" * 3000,
    r"\sqrt{" * 600 + "x" + "}" * 600,
    "1e999999999",
    "9" * 100_000,
    "\ud800 x^2",  # a lone surrogate
    "\x00",
]


def test_hostile_answers_are_wrong_within_seconds():
    start = time.monotonic()
    grades = grade_many([boxed(answer) for answer in HOSTILE], ["5"] * len(HOSTILE), workers=2)
    assert not any(grade.correct for grade in grades)
    assert {grade.status for grade in grades} == {"ok", "timeout"}
    assert time.monotonic() - start < 40
    assert grade_response(boxed("x^2 x"), "x^3").correct  # the workers still work


def test_a_megabyte_of_open_boxes_is_read_once():
    start = time.monotonic()
    assert grade_response("</think>" + "\\boxed{" * 150_000, "5").status == "no_answer"
    assert grade_response("</think>" + "{" * 1_000_000 + r"\boxed{5}", "5").correct
    assert time.monotonic() - start < 5


def test_ten_megabytes_cost_less_than_seconds():
    start = time.monotonic()
    assert not grade_response("</think> \\boxed{" + "9" * 10_000_000 + "}", "5").correct
    assert not grade_response("</think> \\boxed{" + "cm " * 600 + "}", "5").correct
    assert grade_response("x" * 10_000_000 + "</think> \\boxed{5}", "5").correct
    assert time.monotonic() - start < 5


def test_a_killed_worker_is_an_error_or_replaced_and_the_next_call_works():
    assert grade_response(boxed("(x+1)^2"), "x^2+2x+1").correct
    for worker in workers._pool.idle:
        worker.process.kill()
        worker.process.wait()
    assert grade_response(boxed("(x+2)^2"), "x^2+4x+4").correct


def test_threads_grade_at_the_same_time():
    verdicts = {}

    def grade(n):
        verdicts[n] = grade_response(boxed(f"(x+{n})^2"), f"x^2+{2 * n}x+{n * n}").correct

    threads = [threading.Thread(target=grade, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(1, 7), True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no processor affinity")
def test_there_are_as_many_workers_as_cores_of_the_job_not_of_the_machine():
    cores = os.sched_getaffinity(0)
    workers._pool.close()
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert cpus() == 1
        grades = grade_many([boxed(f"x^2 + {n} x") for n in range(4)], [f"x(x + {n})" for n in range(4)])
        assert [grade.correct for grade in grades] == [True] * 4
        assert len(workers._pool.idle) == 1 and _symbolic_processes() == 1
    finally:
        os.sched_setaffinity(0, cores)
        workers._pool.close()
    assert cpus() == len(cores)


def _symbolic_processes() -> int:
    children = psutil.Process().children()
    return sum("redi.evaluation.grading.symbolic" in child.cmdline() for child in children)


def test_grade_many_keeps_the_order():
    responses = [boxed("2"), "no tag", boxed("(x+1)^2"), boxed("3")]
    grades = grade_many(responses, ["2", "2", "x^2+2x+1", ["3", "4"]], workers=2)
    assert [grade.correct for grade in grades] == [True, False, True, True]
    with pytest.raises(ValueError, match="4 responses but 1 golds"):
        grade_many(responses, ["2"])


@pytest.mark.skipif(not (SHARED / "grader_cases.jsonl").is_file(), reason="shared/grader_cases.jsonl is not here")
def test_collected_cases():
    cases = [json.loads(line) for line in (SHARED / "grader_cases.jsonl").open(encoding="utf-8")]
    huge = [case for case in cases if case["kind"] == "fmt_huge"]  # each takes all the time it gets; six will do
    cases = [case for case in cases if case not in huge[6:]]
    grades = grade_many([case["response"] for case in cases], [case["gold"] for case in cases], workers=2)
    wrong = [
        (case["id"], grade) for case, grade in zip(cases, grades, strict=True) if grade.correct != case["expected"]
    ]
    assert not [(name, grade) for name, grade in wrong if grade.correct]  # false positives
    assert len(wrong) <= 0.005 * len(cases), wrong


@pytest.mark.skipif(not (SHARED / "benchmarks").is_dir(), reason="shared/benchmarks is not here")
def test_every_gold_equals_itself():
    rows = [
        json.loads(line) for path in (SHARED / "benchmarks").glob("*.jsonl") for line in path.open(encoding="utf-8")
    ]
    golds = [gold for row in rows for gold in ([row["answer"]] if isinstance(row["answer"], str) else row["answer"])]
    grades = grade_many([f"</think> \\boxed{{{gold}}}" for gold in golds], golds)
    assert not [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct]
