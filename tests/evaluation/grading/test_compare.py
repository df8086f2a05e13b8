"""Comparing answers: every trap the grader was written for, as (reference answer, answer, equal)."""

import pytest
from helpers.graded import boxed

from redi.evaluation.grading.verdict import grade_response

TEXT_AND_NUMBERS = [
    ("142", "142.0", True),
    ("073", "73", True),  # AIME answers have leading zeros
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
    ("8", r"8\text{ or more}", False),  # text that changes the answer is not a unit
    ("8", r"8\text{ million}", False),
    ("6m", "6", False),  # a variable is not a unit
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
