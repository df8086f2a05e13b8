"""How vLLM's engines share the visible GPUs and the work; a module with its names stands in for vLLM."""

import os

import pytest

from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Prompt
from redi.evaluation.generation.vllm_backend import gpu_groups, num_engines, run_all
from redi.runs.errors import UsageError


@pytest.mark.parametrize(
    ("num_gpus", "tensor_parallel_size", "engines"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1), (1, 1, 1), (0, 1, 1), (1, 2, 1)],
)
def test_engines_use_every_visible_gpu(num_gpus, tensor_parallel_size, engines):
    assert num_engines(num_gpus, tensor_parallel_size) == engines


def test_gpus_are_dealt_out_to_engines():
    assert gpu_groups(["0", "1", "2", "3"], 2, 2) == ["0,1", "2,3"]
    assert gpu_groups(["4", "6", "7"], 3, 1) == ["4", "6", "7"]
    assert gpu_groups([], 2, 1) == ["", ""]
    with pytest.raises(UsageError, match="--data-parallel-size 2 x --tensor-parallel-size 2 needs 4 GPUs, and 3 are"):
        gpu_groups(["0", "1", "2"], 2, 2)


VLLM = """
import os
from types import SimpleNamespace as Namespace

class LLM:
    def __init__(self, **options):
        self.llm_engine, self.requests = self, []

    def add_request(self, name, prompt, parameters):
        self.requests.append((name, prompt["prompt_token_ids"], parameters["n"]))

    def has_unfinished_requests(self):
        return bool(self.requests)

    def step(self):
        name, token_ids, n = self.requests.pop(0)
        if token_ids == [0]:
            os._exit(3)
        answer = token_ids + [int(os.environ["CUDA_VISIBLE_DEVICES"])]
        return [Namespace(request_id=name, outputs=[Namespace(index=i, token_ids=answer) for i in range(n)])]

SamplingParams = TokensPrompt = dict
"""


def jobs(tmp_path, monkeypatch, prompts: list[int]) -> list[tuple]:
    """One for each engine; the fake engine answers with the prompt and the GPU it sees, and dies of a 0."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(VLLM)
    (tmp_path / "vllm" / "sampling_params.py").write_text("class RequestOutputKind:\n    FINAL_ONLY = 2\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    numbered = [(number, Prompt("m", number, "", (token,), 5, ""), 2) for number, token in enumerate(prompts)]
    return [("model", (), SamplingOptions(), [batch], 0) for batch in numbered]


def test_each_engine_sees_its_gpus_and_all_answers_arrive(tmp_path, monkeypatch):
    answers = dict(run_all(jobs(tmp_path, monkeypatch, [5, 6]), ["2", "3"]))
    assert answers == {0: [[5, 2]] * 2, 1: [[6, 3]] * 2}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_an_engine_that_dies_is_named_and_the_others_answers_are_kept(tmp_path, monkeypatch):
    answers = []
    with pytest.raises(UsageError, match="--data-parallel-size 2: engine 2 ended with exit code 3"):
        for answer in run_all(jobs(tmp_path, monkeypatch, [5, 0]), ["2", "3"]):
            answers.append(answer)
    assert answers in ([], [(0, [[5, 2]] * 2)])
