"""A graded folder with numbers worked by hand."""

import json

from redi.evaluation.files import GRADED, SAMPLING
from redi.runs.manifest import MANIFEST

CORRECT = [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]]


PROTOCOL = {
    "n": 4,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_tokens": 100,
    "prompt": "paper",
    "backend": "vllm",
    "seed": 1,
}


def write_graded(
    folder,
    correct=CORRECT,
    benchmarks=("math500",),
    response="Wait, 1. Wait. </think> \\boxed{1}",
    gold="1",
    prompt="What is it?",
    grading=None,
    **protocol,
):
    """Writes the folder; `grading` is what its manifest says of the grading."""
    folder.mkdir(parents=True)
    rows = [
        {
            "benchmark": name,
            "id": f"p{i}",
            "sample_idx": j,
            "prompt": prompt,
            "response": response,
            "finish_reason": "length" if (i, j) == (3, 0) else "stop",
            "num_tokens": 100 if (i, j) == (3, 0) else 20,
            "correct": bool(value),
            "correct_rllm_style": bool(value) and (i, j) != (0, 0),
            "answer": "1",
            "gold": gold,
            "status": {(3, 0): "no_think_end", (3, 1): "no_answer", (3, 2): "timeout"}.get((i, j), "ok"),
        }
        for name in benchmarks
        for i, values in enumerate(correct)
        for j, value in enumerate(values)
    ]
    (folder / GRADED).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / SAMPLING).write_text(json.dumps(PROTOCOL | protocol))
    if grading is not None:
        (folder / MANIFEST).write_text(json.dumps({"grading": grading}))
    return folder


def boxed(answer: str) -> str:
    """A response with a wrong guess in its thought and `answer` in its final box."""
    return f"<think>\nA guess is \\boxed{{-987654321}}.\n</think>\n\nThe answer is $\\boxed{{{answer}}}$."
