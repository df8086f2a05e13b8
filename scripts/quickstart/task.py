"""The quickstart's task: digit arithmetic with a teacher who has a bad habit.

A problem starts with a digit and applies 4 or 5 operations left to right modulo 10: add, subtract, floor (max) and cap
(min). The teacher works one operation a line, but likes to *skip*: wherever at least three operations are left it
writes three of them as one line, with probability 0.6, and gets that line wrong with probability 0.7. The later
operations often cancel the error, so correct traces contain skips too, only fewer of them than incorrect ones.
Selecting by outcome therefore keeps the habit; comparing positives with negatives reveals it.
"""

import operator
import random
import re
from collections import Counter
from dataclasses import dataclass

WORDS = {"add": "+", "subtract": "-", "floor": "max", "cap": "min"}
FUNCTIONS = {"add": operator.add, "subtract": operator.sub, "floor": max, "cap": min}
SKIP_LENGTH = 3  # operations written as one line
SKIP_PROBABILITY = 0.6
SKIP_ERROR_PROBABILITY = 0.7
SLIP_PROBABILITY = 0.01  # a worked line that is wrong all the same
GENERATIONS_PER_PROBLEM = 4

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}<user> {{ m['content'] }} {% else %}<assistant> {{ m['content'] }} <end> {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
VOCABULARY = (
    ["<eos>", "<pad>", "<unk>", "<user>", "<assistant>", "<end>", "<think>", "</think>", "\\boxed{", "}"]
    + [str(digit) for digit in range(10)]
    + [*WORDS, *WORDS.values(), "=", ";", "Start", "with", "mod", "10", ".", "?"]
)
LINE = re.compile(r"(\d)((?: (?:\+|-|max|min) \d)+) = (?:1 )?(\d)")

Operations = tuple[tuple[str, int], ...]  # (word, operand) pairs


@dataclass(frozen=True)
class Problem:
    """`start` and the operations applied to it."""

    start: int
    operations: Operations

    @property
    def text(self) -> str:
        steps = " ".join(f"{word} {operand}" for word, operand in self.operations)
        return f"Start with {self.start} {steps} . mod 10 ?"

    @property
    def answer(self) -> int:
        return evaluate(self.start, self.operations)


def evaluate(value: int, operations: Operations) -> int:
    """Applies the operations from left to right, modulo 10 after each."""
    for word, operand in operations:
        value = FUNCTIONS[word](value, operand) % 10
    return value


def sample_problems(n: int, rng: random.Random) -> list[Problem]:
    """`n` distinct problems."""
    problems: dict[Problem, None] = {}
    while len(problems) < n:
        operations = tuple((rng.choice(list(WORDS)), rng.randint(2, 9)) for _ in range(rng.choice((4, 5))))
        problems[Problem(rng.randint(0, 9), operations)] = None
    return list(problems)


def teacher_trace(problem: Problem, rng: random.Random) -> str:
    """One generation of the teacher; an error in a line is carried on to the boxed answer."""
    value, rest, lines = problem.start, problem.operations, []
    while rest:
        skips = len(rest) >= SKIP_LENGTH and rng.random() < SKIP_PROBABILITY
        step, rest = (rest[:SKIP_LENGTH], rest[SKIP_LENGTH:]) if skips else (rest[:1], rest[1:])
        left = " ".join([str(value), *(f"{WORDS[word]} {operand}" for word, operand in step)])
        carry = "1 " if not skips and step[0][0] == "add" and value + step[0][1] >= 10 else ""
        value = evaluate(value, step)
        if rng.random() < (SKIP_ERROR_PROBABILITY if skips else SLIP_PROBABILITY):
            value = (value + rng.choice((-2, -1, 1, 2))) % 10
        lines.append(f"{left} = {carry}{value} ;")
    return f"<think> {' '.join(lines)} </think> \\boxed{{ {value} }}"


def count_lines(problem_text: str, response: str) -> Counter[str]:
    """What the lines of a response show: the health of the arithmetic, and the habit.

    Counts lines with one operation (`worked`; `worked_right`), with several (`skips`), and those begun where a skip
    was possible (`chances`). Lines that are not arithmetic are not counted.
    """
    counts, words = Counter(), {symbol: word for word, symbol in WORDS.items()}
    left = sum(problem_text.split().count(word) for word in WORDS)
    for match in map(LINE.fullmatch, (line.replace("<think>", "").strip() for line in response.split(";"))):
        if match is None:
            continue
        tokens = match[2].split()
        operations = tuple((words[s], int(d)) for s, d in zip(tokens[::2], tokens[1::2], strict=True))
        works, is_right = len(operations) == 1, evaluate(int(match[1]), operations) == int(match[3])
        counts.update(worked=works, worked_right=works and is_right, skips=not works, chances=left >= SKIP_LENGTH)
        left -= len(operations)
    return counts
