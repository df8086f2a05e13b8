"""Grades responses: finds the answer, compares it with the reference answers, and gives two verdicts.

Text and exact numbers decide most answers in this process. The rest goes to math-verify in worker processes, which are
killed if they take too long. Nothing a model writes can raise, hang or exhaust memory here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

from tqdm import tqdm

from redi.evaluation.grading.answer import THINK_END, last_box
from redi.evaluation.grading.compare import equal
from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS
from redi.evaluation.grading.paper_grader import rllm_answer, rllm_equal
from redi.evaluation.grading.worker_pool import Comparison, symbolic_verdict
from redi.runs.files import cpus

STATUSES = ("ok", "no_answer", "no_think_end", "timeout", "error")


@dataclass(frozen=True)
class Grade:
    """A verdict.

    Attributes:
        correct: whether the answer equals a reference answer.
        status: "ok" (decided), "no_think_end" (the thought never ends, mostly a truncated response), "no_answer" (no
            box after the thought), "timeout" or "error" (the symbolic stage reached no verdict). Only "ok" can be
            correct.
        answer: the content of the box; None if there is no box.
        correct_rllm_style: the verdict of the paper's final grader, for comparison (`paper_grader.py`).
    """

    correct: bool
    status: str
    answer: str | None
    correct_rllm_style: bool


def _comparisons(response: str, gold: str | Sequence[str]) -> tuple[Grade | Comparison, Comparison | None]:
    """What to compare for both verdicts. The first is a grade already if the response's form alone decides it."""
    golds = tuple(last_box(text) or text for text in ([gold] if isinstance(gold, str) else gold))
    rllm_box = rllm_answer(response)
    second = None if rllm_box is None else Comparison(golds, rllm_box, rllm_style=True)
    _, tag, final = response.rpartition(THINK_END)
    if not tag:
        return Grade(False, "no_think_end", None, False), second
    box = last_box(final)
    if box is None or not box.strip():
        return Grade(False, "no_answer", None, False), second
    return Comparison(golds, box), second


@lru_cache(maxsize=50_000)  # samples of one problem repeat each other's answers
def _compare(comparison: Comparison) -> bool | None:
    compare, asked = (rllm_equal if comparison.rllm_style else equal), []
    # `append` says no to every question.
    correct = any(compare(gold, comparison.box, lambda *pair: bool(asked.append(pair))) for gold in comparison.golds)
    return correct or (None if asked else False)


def _decide(comparison: Comparison) -> bool | None:
    """The verdict if text and numbers are enough; None if the symbolic stage must decide."""
    remembered = len(comparison.box) <= MAX_ANSWER_CHARS
    return _compare(comparison) if remembered else _compare.__wrapped__(comparison)


def _grade(first: Grade | Comparison, second: Comparison | None, ask: Callable[[Comparison], dict]) -> Grade:
    """The grade from what `_comparisons` returned; `ask` gives the symbolic stage's reply to a comparison."""

    def verdict(comparison: Comparison) -> dict:
        decided = _decide(comparison)
        return ask(comparison) if decided is None else {"correct": decided}

    if isinstance(first, Grade):
        return replace(first, correct_rllm_style=second is not None and verdict(second)["correct"])
    reply = verdict(first)
    status = reply.get("status", "ok")
    # If the first verdict ran out of time, the paper's grader would still be working on its own.
    rllm = second is not None and status == "ok" and verdict(second)["correct"]
    return Grade(reply["correct"], status, first.box.strip(), rllm)


def grade_response(response: str, gold: str | Sequence[str]) -> Grade:
    """Grades one response. Never raises on model text, and returns within seconds.

    Safe in any thread and process. The first answer that needs algebra starts a worker, which takes 1 to 2 s.

    Args:
        response: the decoded response, with `</think>` before the final answer.
        gold: the reference answer, or a list of alternatives, any of which counts; LaTeX with or without `$` or a box.
    """
    return _grade(*_comparisons(response, gold), symbolic_verdict)


def grade_many(
    responses: Sequence[str], golds: Sequence[str | Sequence[str]], workers: int | None = None, progress: bool = True
) -> list[Grade]:
    """Grades many responses, in order. Equal answers to equal reference answers are compared once.

    `workers` is the number of processes; by default the cores this process may use, since more workers would slow each
    other down until they time out. Raises a ValueError unless there are as many `golds` as `responses`.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses but {len(golds)} golds")
    hidden = None if progress else True  # None: hidden unless stderr is a terminal
    pairs = zip(responses, golds, strict=True)
    compared, undecided = [], {}
    for pair in tqdm(pairs, "text and numbers", len(golds), unit="", disable=hidden):
        compared.append(_comparisons(*pair))
        for comparison in compared[-1]:
            if isinstance(comparison, Comparison) and _decide(comparison) is None:
                undecided[comparison] = None
    with ThreadPoolExecutor(max_workers=workers or cpus()) as threads:
        answers = threads.map(symbolic_verdict, undecided)
        bar = tqdm(answers, "math-verify", len(undecided), unit="", disable=hidden)
        replies = dict(zip(undecided, bar, strict=True))
    return [_grade(first, second, replies.__getitem__) for first, second in compared]
