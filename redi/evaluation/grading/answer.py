"""Finds the answer of a response: the last box after the last `</think>`."""

import re

THINK_END = "</think>"

_BOX_TOKENS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def graded_part(response: str) -> str:
    """The part of a response that decides its grade: from the first `</think>` on, or the empty string."""
    _, tag, final = response.partition(THINK_END)
    return tag + final


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{...}` in `text` with balanced braces. Escaped braces do not count.

    Reads the text once, so thousands of unclosed boxes cost no more than any other text.
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
