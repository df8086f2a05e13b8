"""Sampling with vLLM: all prompts at once; a prompt's samples are stored when the last of them ends.

Data-parallel engines are separate processes, each with its own GPUs and its share of the prompts, since copies of a
model need to know nothing of each other. An engine's seed comes from what it samples, so added samples do not repeat
earlier ones. Seeds are per engine, since not every device supports one per request: which sample gets which random
numbers depends on what else is running, and two runs agree in distribution only.
"""

import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Queue, get_context
from multiprocessing.process import BaseProcess

import torch
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind

from redi.evaluation.generation.gpus import gpu_groups, visible_gpus
from redi.evaluation.generation.model import SamplingModel
from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Prompt, Request, Sample, group_by_prompt, seed_of
from redi.runs.errors import UsageError

Answers = tuple[int, list[list[int]]]  # number of the batch, token ids of its samples


@dataclass(frozen=True)
class Job:
    """What one engine samples. A batch is the missing samples of one prompt."""

    model: str
    stop_token_ids: tuple[int, ...]
    options: SamplingOptions
    batches: list[tuple[int, Prompt, int]]  # number of the batch, its prompt, how many samples
    seed: int

    def run(self) -> Iterator[Answers]:
        """Samples all batches, and yields each when its last sample ends."""
        engine = LLM(
            model=self.model,
            seed=self.seed,
            dtype=self.options.dtype,
            max_model_len=max(len(prompt.token_ids) + prompt.max_tokens for _, prompt, _ in self.batches),
            tensor_parallel_size=self.options.tensor_parallel_size,
            generation_config="vllm",  # not the model's own: its top_k and penalties are not part of the protocol
            enforce_eager=not torch.cuda.is_available(),  # compiling for a CPU takes minutes
        ).llm_engine
        copies = {}
        for number, prompt, num_samples in self.batches:
            copies[str(number)] = num_samples if self.options.temperature == 0 else 1
            parameters = SamplingParams(
                n=num_samples // copies[str(number)],  # vLLM samples a greedy answer only once
                temperature=self.options.temperature,
                top_p=self.options.top_p,
                top_k=-1,
                max_tokens=prompt.max_tokens,
                stop_token_ids=list(self.stop_token_ids),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            engine.add_request(str(number), TokensPrompt(prompt_token_ids=list(prompt.token_ids)), parameters)
        while engine.has_unfinished_requests():
            for output in engine.step():
                answers = sorted(output.outputs, key=lambda answer: answer.index)
                token_ids = [list(answer.token_ids) for answer in answers]
                yield int(output.request_id), token_ids * copies[output.request_id]


def sample(
    model: SamplingModel, requests: list[Request], options: SamplingOptions
) -> Iterator[tuple[list[Request], list[Sample]]]:
    """Samples all requests; yields those of one prompt and their samples together, as they finish."""
    groups = gpu_groups(visible_gpus(), options.data_parallel_size, options.tensor_parallel_size)
    batches = group_by_prompt(requests)
    numbered = list(enumerate(batches))
    # Dealt out in turn, so that every engine gets prompts of all lengths.
    shares = [numbered[first :: options.data_parallel_size] for first in range(options.data_parallel_size)]
    jobs = [
        Job(
            model.path,
            model.stop_token_ids,
            options,
            [(number, batch[0].prompt, len(batch)) for number, batch in share],
            seed_of([request for _, batch in share for request in batch]) % 2**31,  # numpy's seeds have 32 bits
        )
        for share in shares
        if share
    ]
    for number, answers in jobs[0].run() if len(jobs) == 1 else _run_all(jobs, groups):
        yield batches[number], model.decode(answers)


def _run_all(jobs: list[Job], groups: list[str]) -> Iterator[Answers]:
    """Runs each job in a separate process."""
    context = get_context("spawn")
    answers: Queue[Answers | None] = context.Queue()
    processes = [_start(context, job, group, answers) for job, group in zip(jobs, groups, strict=False)]
    running = len(processes)
    try:
        while running:
            try:
                answer = answers.get(timeout=1)
            except queue.Empty:
                _check_alive(processes)
                continue
            if answer is None:
                running -= 1
            else:
                yield answer
    finally:
        for process in processes:
            if running:
                process.terminate()
            process.join()


def _start(context, job: Job, group: str, answers: "Queue[Answers | None]") -> BaseProcess:
    process = context.Process(target=_run_in_process, args=(job, answers, os.getpid()))
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if group:  # set before the process starts, since its imports may read it
        os.environ["CUDA_VISIBLE_DEVICES"] = group
    process.start()
    if group:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})
    return process


def _check_alive(processes: list[BaseProcess]) -> None:
    for number, process in enumerate(processes, start=1):
        if process.exitcode:
            raise UsageError(
                f"--data-parallel-size {len(processes)}: engine {number} ended with exit code {process.exitcode} for "
                "the reason printed above; what was sampled is kept, and the same command resumes"
            )


def _run_in_process(job: Job, answers: "Queue[Answers | None]", parent: int) -> None:
    for answer in job.run():
        answers.put(answer)
        if os.getppid() != parent:  # the parent was killed, and nobody stores the rest
            raise SystemExit(1)
    answers.put(None)
