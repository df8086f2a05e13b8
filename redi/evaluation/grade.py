"""Grades responses: the last box after the last `</think>`, against one or several gold answers.

Most answers are decided in this process by text and exact numbers; the rest goes to math-verify in worker processes
that are killed when they take too long. Nothing a model writes can raise, hang or exhaust memory here.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

from tqdm import tqdm

from redi.evaluation.compare import equal
from redi.evaluation.normalize import MAX_ANSWER_CHARS
from redi.evaluation.workers import symbolic_verdict

STATUSES = ("ok", "no_answer", "no_think_end", "timeout", "error")
THINK_END = "</think>"

_BOX_TOKENS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Grade:
    """A verdict.

    Attributes:
        correct: whether the answer equals a gold.
        status: "ok" (decided), "no_think_end" (the thought never ends, mostly a truncated response), "no_answer" (no
            box after it), "timeout" or "error" (the symbolic stage had no verdict). Only "ok" can be correct.
        answer: the content of the box; None where there is none.
    """

    correct: bool
    status: str
    answer: str | None


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


def _golds(gold: str | Sequence[str]) -> list[str]:
    golds = [gold] if isinstance(gold, str) else list(gold)
    return [last_box(text) or text for text in golds]


def _grade_in_process(response: str, golds: list[str]) -> Grade | None:
    """The verdict as far as text and numbers give one; None where the symbolic stage must decide."""
    _, tag, final = response.rpartition(THINK_END)
    if not tag:
        return Grade(False, "no_think_end", None)
    box = last_box(final)
    if box is None or not box.strip():
        return Grade(False, "no_answer", None)
    verdicts = [equal(gold, box) for gold in golds]
    if True in verdicts:
        return Grade(True, "ok", box.strip())
    if None in verdicts and len(box) <= MAX_ANSWER_CHARS:
        return None
    return Grade(False, "ok", box.strip())


def _grade_in_worker(box: str, golds: list[str]) -> Grade:
    reply = symbolic_verdict(golds, box)
    return Grade(reply["correct"], reply.get("status", "ok"), box.strip())


def graded_part(response: str) -> str:
    """What the grade depends on: the response from its last `</think>` on, or the empty string."""
    _, tag, final = response.rpartition(THINK_END)
    return tag + final if tag else ""


def _box_of(response: str) -> str:
    return last_box(response.rpartition(THINK_END)[2]) or ""


def grade_response(response: str, gold: str | Sequence[str]) -> Grade:
    """Grades one response; any of several golds counts. Never raises on model text and returns within seconds.

    Safe in any thread and process. The first answer that needs mathematics starts a worker, which takes 1 to 2 s.

    Args:
        response: the decoded response, holding `</think>` before the final answer.
        gold: the reference answer, or a list of alternatives; LaTeX with or without `$` or a box.
    """
    golds = _golds(gold)
    return _grade_in_process(response, golds) or _grade_in_worker(_box_of(response), golds)


def grade_many(
    responses: Sequence[str], golds: Sequence[str | Sequence[str]], workers: int | None = None, progress: bool = True
) -> list[Grade]:
    """Grades many responses, in order, with `workers` worker processes (default: one a core).

    The same answer to the same gold is worked out once, however many samples give it.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses but {len(golds)} golds")
    gold_lists = [_golds(gold) for gold in golds]
    pairs = zip(responses, gold_lists, strict=True)
    bar = tqdm(pairs, total=len(responses), desc="text and numbers", unit="", disable=None if progress else True)
    grades = [_grade_in_process(response, gold) for response, gold in bar]
    open_at = [index for index, grade in enumerate(grades) if grade is None]
    keys = {index: (_box_of(responses[index]), tuple(gold_lists[index])) for index in open_at}
    distinct = list(dict.fromkeys(keys.values()))
    with ThreadPoolExecutor(max_workers=workers or cpu_count()) as threads:
        verdicts = threads.map(lambda key: _grade_in_worker(key[0], list(key[1])), distinct)
        bar = tqdm(verdicts, total=len(distinct), desc="math-verify", unit="", disable=None if progress else True)
        decided = dict(zip(distinct, bar, strict=True))
    return [decided[keys[index]] if grade is None else grade for index, grade in enumerate(grades)]
