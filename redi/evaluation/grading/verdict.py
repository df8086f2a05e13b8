"""Grades responses: finds the answer, compares it with the reference answers, and gives two verdicts.

Text and exact numbers decide most answers in this process. The rest goes to math-verify in worker processes, which are
killed if they take too long. Nothing a model writes can raise, hang or exhaust memory here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from tqdm import tqdm

from redi.evaluation.grading.answer import THINK_END, last_box
from redi.evaluation.grading.compare import equal
from redi.evaluation.grading.normalize import MAX_ANSWER_CHARS
from redi.evaluation.grading.paper_grader import rllm_answer, rllm_equal
from redi.evaluation.grading.workers import Comparison, symbolic_verdict
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


def _read(response: str, gold: str | Sequence[str]) -> tuple[str, Comparison | None, Comparison | None]:
    """The status as far as the response's form decides it, and what to compare for each verdict."""
    golds = tuple(last_box(text) or text for text in ([gold] if isinstance(gold, str) else gold))
    rllm_box = rllm_answer(response)
    second = None if rllm_box is None else Comparison(golds, rllm_box, rllm_style=True)
    _, tag, final = response.rpartition(THINK_END)
    box = last_box(final)
    if not tag or box is None or not box.strip():
        return ("no_answer" if tag else "no_think_end"), None, second
    return "ok", Comparison(golds, box), second


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


def _ask(comparison: Comparison) -> tuple[bool, str]:
    correct = _decide(comparison)
    return symbolic_verdict(comparison) if correct is None else (correct, "ok")


def _grade(status: str, first: Comparison | None, second: Comparison | None, ask: Callable = _ask) -> Grade:
    """The grade from what `_read` returned. If the first verdict runs out of time, the second counts as wrong."""
    correct, status = ask(first) if first else (False, status)
    rllm = second is not None and status not in ("timeout", "error") and ask(second)[0]
    return Grade(correct, status, first and first.box.strip(), rllm)


def grade_response(response: str, gold: str | Sequence[str]) -> Grade:
    """Grades one response. Never raises on model text, and returns within seconds.

    Safe in any thread and process. The first answer that needs algebra starts a worker, which takes 1 to 2 s.

    Args:
        response: the decoded response, with `</think>` before the final answer.
        gold: the reference answer, or a list of alternatives, any of which counts; LaTeX with or without `$` or a box.
    """
    return _grade(*_read(response, gold))


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
    read = [_read(*pair) for pair in zip(responses, golds, strict=True)]
    bar = tqdm(read, "text and numbers", unit="", disable=hidden)
    undecided = dict.fromkeys(c for _, *both in bar for c in both if c is not None and _decide(c) is None)
    with ThreadPoolExecutor(max_workers=workers or cpus()) as threads:
        answers = threads.map(symbolic_verdict, undecided)
        bar = tqdm(answers, "math-verify", len(undecided), unit="", disable=hidden if undecided else True)
        replies = dict(zip(undecided, bar, strict=True))
    return [_grade(*parts, lambda c: replies.get(c) or (_decide(c), "ok")) for parts in read]
