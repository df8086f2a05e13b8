"""Overlap of problems with questions: planted overlaps, near misses, and the original's rule as the oracle."""

import json
import random

import pytest

from redi.data.decontamination import OverlapIndex, Question

QUESTION = Question("bench", 7, "Let a,  B and c be\nthe three sides of a right triangle.")  # 12 words
SHORT = Question("bench", "s", "Simplify $\\sqrt{242}$.")


@pytest.mark.parametrize("offset", range(5))
def test_eight_words_are_found_wherever_they_stand_and_seven_are_not(offset):
    """Each of the question's 5 n-grams, in other case and spacing, after 0 to 11 foreign words."""
    index = OverlapIndex([QUESTION])
    planted = QUESTION.text.split()[offset : offset + 8]
    for before in range(12):
        around = [f"x{i}" for i in range(before)]
        problem = " ".join(around) + "\t" + "  \n".join(word.upper() for word in planted) + " tail"
        assert list(index.find(problem).values()) == [" ".join(planted).lower()]
        for near_miss in (planted[1:], planted[:-1], [*planted[:4], "not", *planted[4:]], planted[::-1]):
            assert index.find(" ".join([*around, *near_miss, "tail"])) == {}


def test_punctuation_belongs_to_its_word():
    index = OverlapIndex([QUESTION])
    assert index.find("c be the three sides of a right") != {}
    assert index.find("c be the three sides, of a right") == {}


def test_short_questions_match_only_as_a_complete_problem():
    index = OverlapIndex([QUESTION, SHORT])
    assert index.is_short(SHORT) and not index.is_short(QUESTION)
    assert index.find("  simplify\n$\\SQRT{242}$. ") == {SHORT: "simplify $\\sqrt{242}$."}
    assert index.find("Simplify $\\sqrt{242}$. Then add one to what you got there.") == {}
    assert index.find("Simplify") == {}


def test_every_question_is_named_once_with_its_first_words():
    twin = Question("other", 7, QUESTION.text)
    index = OverlapIndex([QUESTION, twin, SHORT])
    found = index.find(QUESTION.text)
    assert found == dict.fromkeys([QUESTION, twin], "let a, b and c be the three")


def test_missing_problems_overlap_with_nothing():
    index = OverlapIndex([QUESTION])
    assert [bool(index.find(problem)) for problem in (None, "", QUESTION.text)] == [False, False, True]


def joined_ngrams(text: str, num_words: int) -> set[str]:
    words = " ".join(text.lower().strip().split()).split()
    return {" ".join(words[i : i + num_words]) for i in range(len(words) - num_words + 1)}


@pytest.mark.parametrize(("num_words", "vocabulary"), [(1, 40), (2, 12), (3, 8), (5, 4), (8, 3), (13, 2)])
def test_equals_the_original_rule(num_words, vocabulary):
    """Texts of so few words that overlaps are common; the original compares n-grams joined by spaces."""
    rng = random.Random(num_words)

    def text() -> str:
        return " ".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789!?+-"[:vocabulary], k=rng.randint(13, 30)))

    questions = [Question("bench", i, text()) for i in range(5)]
    problems = [text() for _ in range(300)]
    index = OverlapIndex(questions, num_words)
    found = list(map(index.find, problems))
    expected = [
        {
            question
            for question in questions
            if joined_ngrams(problem, num_words) & joined_ngrams(question.text, num_words)
        }
        for problem in problems
    ]
    assert [set(overlaps) for overlaps in found] == expected
    assert any(expected) and not all(len(overlapping) == 5 for overlapping in expected)


def test_reported_benchmarks_find_themselves(shared):
    """Every question overlaps with itself, the 36 without an n-gram included; GSM8K's overlap with none."""
    names = ["math500", "aime24", "amc23", "minerva", "olympiadbench"]

    def read(name: str) -> list[dict]:
        return [json.loads(line) for line in (shared / "benchmarks" / f"{name}.jsonl").open(encoding="utf-8")]

    questions = [Question(name, row["id"], row["problem"]) for name in names for row in read(name)]
    index = OverlapIndex(questions)
    assert len(questions) == 500 + 30 + 83 + 272 + 675
    assert sum(map(index.is_short, questions)) == 36
    assert all(question in index.find(question.text) for question in questions)
    assert not any(index.find(row["problem"]) for row in read("gsm8k"))
