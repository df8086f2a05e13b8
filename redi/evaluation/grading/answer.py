"""Finds the answer of a response: the last box after the last `</think>`."""

import re

THINK_END = "</think>"

_BOX_TOKENS = re.compile(r"\\+boxed\s*\{|\\.|[{}]", re.DOTALL)
_FIRST_TERM = re.compile(r"\\boxed\s*\{([^{}]*)\}\s*([+*/]|\\times|\\cdot)\s*$")


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{...}` in `text` with balanced braces. Escaped braces do not count.

    A box that is added to or multiplied with the one before it is a term: `\\boxed{5}+\\boxed{5}` says `{5}+{5}`.
    Reads the text once, so thousands of unclosed boxes cost no more than any other text.
    """
    stack, boxes = [], []
    for match in _BOX_TOKENS.finditer(text):
        token = match.group()
        if token == "}":
            if stack:
                start, inside = stack.pop()
                if inside > start + 1:
                    boxes.append((start, inside, match.start()))
        elif token[-1] == "{" and token != r"\{":
            stack.append(match.span())  # of the command or brace
    if not boxes:
        return None
    start, inside, end = max(boxes)
    term = _FIRST_TERM.search(text[max(0, start - 200) : start])
    return rf"{{{term[1]}}}{term[2]}{{{text[inside:end]}}}" if term else text[inside:end]
