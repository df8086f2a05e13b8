"""The second verdict: the rules of the paper's final grader, errors included, and where it differs from the first."""

import pytest

from redi.evaluation.grading.paper_grader import rllm_answer, rllm_equal, zero_difference
from redi.evaluation.grading.verdict import grade_many, grade_response


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("142.0", "142", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac12", r"\dfrac{1}{2}", True),
        ("14,000", "14000", True),
        ("12", "x=12", True),  # a name of two characters at most
        ("83", "|S| = 83", False),
        ("3", "a+b+c = 3", False),
        (r"\text{Evelyn}", "Evelyn", True),
        ("5", r"5\text{ cm}", True),
        ("30", r"30^\circ", True),
        ("(1,2)", r"\left( 1, 2 \right)", True),
        ("(1,2)", "[1,2]", False),
        ("x^2-x-2", "(x+1)(x-2)", True),  # two letters at most
        (r"10\sqrt{2}", r"\sqrt{200}", True),
        (r"2\sin x\cos x", r"\sin 2x", False),
        ("1024", "2^{10}", False),  # no exponents of two digits
        ("1,-2", "-2,1", False),  # the order of a list
        ("5,15", "x=5, x=15", False),
        (r"\frac{2}{4}", r"\frac{1}{2}", False),  # two fractions are compared as strings
        ("2", "2.0001", False),
        (r"\frac{1}{3}", "0.333333", False),
        (r"2\pi", "2\N{GREEK SMALL LETTER PI}", False),
        ("60", r"60 \text{ or } 120", True),  # errors of the original
        ("1234", "(1,234)", True),
        (r"\alpha+1", r"\beta+1", False),
    ],
)
def test_verdicts(gold, answer, expected):
    assert rllm_equal(gold, answer, zero_difference) is expected


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think> </think> \boxed{4} or \boxed{5}", "5"),
        (r"</think> \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"</think> \boxed{4} </think> \boxed{5}", "4"),  # between the first tag and the second
        (r"</think> \boxed {5}", None),
        (r"</think> \boxed{5}, so \boxed{4", None),  # the last box never closes
        (r"\boxed{5}", None),
    ],
)
def test_where_the_original_looks(response, answer):
    assert rllm_answer(response) == answer


def test_both_verdicts_of_a_response():
    graded = grade_response(r"</think> \boxed{3, 1}", "1,3")
    assert (graded.correct, graded.correct_rllm_style) == (True, False)
    graded = grade_response(r"</think> \boxed{60 \text{ or } 120}", ["7", "60"])
    assert (graded.correct, graded.correct_rllm_style) == (False, True)
    graded = grade_many([r"</think> \boxed{\sqrt{200}}", "no"], [r"10\sqrt{2}", "5"], workers=1, progress=False)
    assert [(g.correct, g.correct_rllm_style) for g in graded] == [(True, True), (False, False)]


def test_what_sympy_would_run_as_python_never_reaches_it(tmp_path):
    asked = []
    for answer in (f"open('{tmp_path}/x','w')", "[].__class__", "a;b", "{}", "lambda: 0", "x" * 6000):
        assert not rllm_equal("5x", answer, lambda gold, text: asked.append(text))
    assert asked == []
