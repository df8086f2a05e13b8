"""Where the answer of a response is."""

import time

import pytest

from redi.evaluation.grading.answer import last_box
from redi.evaluation.grading.verdict import grade_response


@pytest.mark.parametrize(
    ("response", "status", "answer"),
    [
        ("", "no_think_end", None),
        (r"\boxed{5}", "no_think_end", None),
        (r"<think>\boxed{5}", "no_think_end", None),
        (r"<think>\boxed{5}</think> as above", "no_answer", None),  # a box inside the thought does not count
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


def test_a_megabyte_of_open_boxes_is_read_once():
    start = time.process_time()
    assert grade_response("</think>" + "\\boxed{" * 150_000, "5").status == "no_answer"
    assert grade_response("</think>" + "{" * 1_000_000 + r"\boxed{5}", "5").correct
    assert time.process_time() - start < 5


def test_boxes_that_are_terms_are_read_together():
    assert grade_response(r"</think> $\boxed{5}+\boxed{5}$", "10").correct
    assert not grade_response(r"</think> $\boxed{5}+\boxed{5}$", "5").correct
    assert grade_response(r"</think> $\\boxed{7}$", "7").correct
