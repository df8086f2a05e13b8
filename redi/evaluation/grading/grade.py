"""Grades responses: the last box after the last `</think>`, against one or several gold answers.

Most answers are decided in this process by text and exact numbers; the rest goes to math-verify in worker processes
that are killed when they take too long. Nothing a model writes can raise, hang or exhaust memory here.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

from tqdm import tqdm

from redi.evaluation.grading.compare import equal
from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS
from redi.evaluation.grading.paper_grader import THINK_END, rllm_answer, rllm_equal
from redi.evaluation.grading.worker_pool import symbolic_verdict
from redi.runs.files import cpus

STATUSES = ("ok", "no_answer", "no_think_end", "timeout", "error")

_BOX_TOKENS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Grade:
    """A verdict.

    Attributes:
        correct: whether the answer equals a gold.
        status: "ok" (decided), "no_think_end" (the thought never ends, mostly a truncated response), "no_answer" (no
            box after it), "timeout" or "error" (the symbolic stage had no verdict). Only "ok" can be correct.
        answer: the content of the box; None where there is none.
        correct_rllm_style: the verdict of the paper's final grader, for comparison (`paper_grader.py`).
    """

    correct: bool
    status: str
    answer: str | None
    correct_rllm_style: bool


@dataclass(frozen=True)
class Question:
    """An answer and the golds it is compared with; hashable, as many samples ask the same."""

    golds: tuple[str, ...]
    box: str
    rllm_style: bool = False


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{...}` in `text` whose braces balance; escaped braces do not count.

    One pass over the braces, so that thousands of unclosed boxes cost no more than anything else.
    """
    stack: list[tuple[int, bool]] = []  # (position after the brace, whether it opens a box)
    last: tuple[int, int] | None = None
    for match in _BOX_TOKENS.finditer(text):
        token = match.group()
        if token == "}":
            if stack:
                start, is_box = stack.pop()
                if is_box and (last is None or start > last[0]):
                    last = (start, match.start())
        elif token[-1] == "{" and token != r"\{":
            stack.append((match.end(), token != "{"))
    return None if last is None else text[last[0] : last[1]]


def _golds(gold: str | Sequence[str]) -> tuple[str, ...]:
    golds = [gold] if isinstance(gold, str) else list(gold)
    return tuple(last_box(text) or text for text in golds)


def graded_part(response: str) -> str:
    """What the grades depend on: the response from its first `</think>` on, or the empty string."""
    _, tag, final = response.partition(THINK_END)
    return tag + final


def _questions(response: str, gold: str | Sequence[str]) -> tuple[Grade | Question, Question | None]:
    """What is to be compared for a response: a grade where its form alone gives one; and for the second verdict."""
    golds = _golds(gold)
    rllm_box = rllm_answer(response)
    rllm = None if rllm_box is None else Question(golds, rllm_box, rllm_style=True)
    _, tag, final = response.rpartition(THINK_END)
    if not tag:
        return Grade(False, "no_think_end", None, False), rllm
    box = last_box(final)
    if box is None or not box.strip():
        return Grade(False, "no_answer", None, False), rllm
    return Question(golds, box), rllm


def _decide(question: Question) -> bool | None:
    """The verdict as far as text and numbers give one; None where the symbolic stage must decide."""
    return _compare_once(question) if len(question.box) <= MAX_ANSWER_CHARS else _compare(question) is True


def _compare(question: Question) -> bool | None:
    compare = rllm_equal if question.rllm_style else equal
    verdicts = [compare(gold, question.box) for gold in question.golds]
    return True if True in verdicts else None if None in verdicts else False


_compare_once = lru_cache(maxsize=50_000)(_compare)  # samples of a problem repeat each other's answers


def _ask(question: Question) -> dict:
    return symbolic_verdict(question.golds, question.box, question.rllm_style)


def _grade(first: Grade | Question, second: Question | None, reply_to: Callable[[Question], dict]) -> Grade:
    """The grade of what `_questions` gave, where `reply_to` gives a reply of the symbolic stage."""

    def verdict(question: Question) -> dict:
        decided = _decide(question)
        return reply_to(question) if decided is None else {"correct": decided}

    if isinstance(first, Grade):
        return replace(first, correct_rllm_style=second is not None and verdict(second)["correct"])
    reply = verdict(first)
    status = reply.get("status", "ok")
    # Where the first verdict takes too long, the original would still be working at its own.
    rllm = second is not None and status == "ok" and verdict(second)["correct"]
    return Grade(reply["correct"], status, first.box.strip(), rllm)


def grade_response(response: str, gold: str | Sequence[str]) -> Grade:
    """Grades one response; any of several golds counts. Never raises on model text and returns within seconds.

    Safe in any thread and process. The first answer that needs mathematics starts a worker, which takes 1 to 2 s.

    Args:
        response: the decoded response, holding `</think>` before the final answer.
        gold: the reference answer, or a list of alternatives; LaTeX with or without `$` or a box.
    """
    return _grade(*_questions(response, gold), _ask)


def grade_many(
    responses: Sequence[str], golds: Sequence[str | Sequence[str]], workers: int | None = None, progress: bool = True
) -> list[Grade]:
    """Grades many responses, in order, with `workers` worker processes (default: one a core).

    The cores are those that this process may use: more workers would crowd each other into timeouts. The same answer
    to the same gold is worked out once, however many samples give it.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses but {len(golds)} golds")
    pairs = zip(responses, golds, strict=True)
    bar = tqdm(pairs, total=len(responses), desc="text and numbers", unit="", disable=None if progress else True)
    asked, replies = [], {}
    for response, gold in bar:
        asked.append(_questions(response, gold))
        for question in asked[-1]:
            if isinstance(question, Question) and _decide(question) is None:
                replies[question] = None
    with ThreadPoolExecutor(max_workers=workers or cpus()) as threads:
        verdicts = threads.map(_ask, replies)
        bar = tqdm(verdicts, total=len(replies), desc="math-verify", unit="", disable=None if progress else True)
        replies = dict(zip(replies, bar, strict=True))
    return [_grade(first, second, replies.__getitem__) for first, second in asked]
