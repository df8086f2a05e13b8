"""Grading a folder; the command's errors are tested with the command."""

import json

import pytest

from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.grading.grade_folder import closes_thought, grade_folder
from redi.evaluation.grading.verdict import grade_response
from redi.runs.manifest import read_manifest


def test_answers_sampled_for_a_benchmark_and_its_second_golds_are_graded_once_each(tmp_path, capsys):
    answers = {"minerva": "5", "minerva_sourcebox": "6"}
    shared = [{"benchmark": name, "id": "minerva/1"} for name in answers]
    response = {"sample_idx": 0, "response": "</think> \\boxed{5}"}
    for file, more in ((GENERATIONS, [response, response]), (BENCHMARK, [{"answer": a} for a in answers.values()])):
        rows = [row | extra for row, extra in zip(shared, more, strict=True)]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_folder(tmp_path, [], tmp_path)
    graded = [json.loads(line) for line in (tmp_path / GRADED).open()]
    assert [(row["benchmark"], row["gold"], row["correct"]) for row in graded] == [
        ("minerva", "5", True),
        ("minerva_sourcebox", "6", False),
    ]
    assert "| minerva_sourcebox |       1 |       0 |" in capsys.readouterr().out


def write(folder, responses: list[str], prompt: str = "<|user|>What is it?<|assistant|>", **row):
    """Answers to one problem whose reference answer is 5."""
    folder.mkdir(exist_ok=True)
    sample = {"benchmark": "m", "id": "1", "prompt": prompt, "finish_reason": "stop"} | row
    rows = [sample | {"sample_idx": i, "response": response} for i, response in enumerate(responses)]
    (folder / GENERATIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"benchmark": "m", "id": "1", "problem": "What is it?", "answer": "5"}
    (folder / BENCHMARK).write_text(json.dumps(asked) + "\n")


def verdicts(folder) -> list[tuple[str, bool, bool]]:
    rows = [json.loads(line) for line in (folder / GRADED).open()]
    return [(row["status"], row["correct"], row["correct_rllm_style"]) for row in rows]


# Without a thought; with one; with a guess in a thought; with no box.
RESPONSES = ["It is \\boxed{5}.", "Hm.</think> \\boxed{5}", "\\boxed{4}?</think> \\boxed{5}", "It is 5."]


def test_whole_responses_are_graded_if_asked_for(tmp_path, capsys):
    write(tmp_path, RESPONSES)
    grade_folder(tmp_path, [], tmp_path)
    assert verdicts(tmp_path) == [
        ("no_think_end", False, False),
        *[("ok", True, True)] * 2,
        ("no_think_end",) + (False,) * 2,
    ]
    grade_folder(tmp_path, [], tmp_path, whole_responses=True)
    assert verdicts(tmp_path) == [*[("ok", True, True)] * 3, ("no_answer", False, False)]
    assert read_manifest(tmp_path)["grading"]["whole_responses"] is True
    assert "note: responses without </think> were graded by their last box" in capsys.readouterr().err


def test_other_responses_are_graded_as_before(tmp_path):
    """Where a response ends its thought, the whole of it is graded as `grade_response` does."""
    responses = RESPONSES[1:3] + ["a</think>b</think> \\boxed{5}", "\\boxed{5}</think>", "</think>"]
    write(tmp_path, responses)
    grade_folder(tmp_path, [], tmp_path, whole_responses=True)
    grades = [grade_response(response, "5") for response in responses]
    assert verdicts(tmp_path) == [(grade.status, grade.correct, grade.correct_rllm_style) for grade in grades]


@pytest.mark.parametrize(
    ("prompt", "closed"),
    [
        ("What is it?<|assistant|>\n<think>\n\n</think>\n\n", True),  # Qwen3 without thinking
        ("What is it?<|Assistant|></think>", True),  # DeepSeek V3.1
        ("What is it?<|assistant|><think></think>Answer: ", True),
        ("What is it?<|assistant|>", False),
        ("What is it?<|assistant|>\n<think>\n", False),
        ("What is it?<|assistant|><think></think><think>\n", False),
        ("Think between <think> </think> tags. What is it?<|assistant|>", False),  # a system prompt
        ("Think between <think> </think> tags. What is that?<|assistant|>", False),
    ],
)
def test_a_prompt_that_closes_the_thought_makes_the_whole_response_the_answer(tmp_path, capsys, prompt, closed):
    assert closes_thought(prompt, "What is it? ") == closed
    write(tmp_path, RESPONSES[:1], prompt)
    grade_folder(tmp_path, [], tmp_path)
    assert verdicts(tmp_path) == [("ok", True, True) if closed else ("no_think_end", False, False)]
    assert read_manifest(tmp_path)["grading"]["thoughts_closed_by_prompt"] == closed
    assert ("note: 1 prompts close the thought" in capsys.readouterr().err) == closed


def test_a_majority_without_an_end_of_its_thought_is_explained(tmp_path, capsys):
    write(tmp_path, [*RESPONSES, "Hm.", "cut"], finish_reason="length")
    grade_folder(tmp_path, [], tmp_path)
    error = capsys.readouterr().err
    assert (
        "note: 4 of 6 responses have no </think> (no_think_end) and count as wrong; 4 of these were cut off" in error
    )
    assert "1 have a box" in error and "pass --whole-responses" in error
    write(tmp_path, RESPONSES)
    grade_folder(tmp_path, [], tmp_path)  # half of them
    assert "no_think_end" not in capsys.readouterr().err
