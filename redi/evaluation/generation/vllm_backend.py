"""Sampling with vLLM: all problems at once, each written down when its last sample ends.

Data parallel engines are processes of their own, each with its own GPUs and its own part of the problems, since a
model's copies need to know nothing of each other. An engine's seed comes from what it is to sample, so that samples
that are added to earlier ones are not the same again. It is the engine's, since not every device supports one for each
request: which sample gets which random numbers depends on what else is running, and two runs agree in distribution.
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

from redi.evaluation.generation.model import Checkpoint
from redi.evaluation.generation.requests import Request, Sample, Settings, Slot, by_request, gpu_groups, slots_seed
from redi.runs.errors import UsageError

Answers = tuple[int, list[list[int]]]  # which batch, and the token ids of its samples


@dataclass(frozen=True)
class Job:
    """What one engine has to sample; its batches are the missing samples of one problem each, with their numbers."""

    model: str
    stop_token_ids: tuple[int, ...]
    settings: Settings
    batches: list[tuple[int, Request, int]]  # number, request, how many samples
    seed: int

    def run(self) -> Iterator[Answers]:
        """Samples all batches, and yields each when its last sample ends."""
        engine = LLM(
            model=self.model,
            seed=self.seed,
            dtype=self.settings.dtype,
            max_model_len=max(len(request.token_ids) + request.max_tokens for _, request, _ in self.batches),
            tensor_parallel_size=self.settings.tensor_parallel_size,
            generation_config="vllm",  # not the model's own: its top_k or penalties are no part of the protocol
            enforce_eager=not torch.cuda.is_available(),  # compiling for a CPU takes minutes
        ).llm_engine
        copies = {}
        for number, request, num_samples in self.batches:
            copies[str(number)] = num_samples if self.settings.temperature == 0 else 1
            parameters = SamplingParams(
                n=num_samples // copies[str(number)],  # vLLM samples a greedy answer only once
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                top_k=-1,
                max_tokens=request.max_tokens,
                stop_token_ids=list(self.stop_token_ids),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            engine.add_request(str(number), TokensPrompt(prompt_token_ids=list(request.token_ids)), parameters)
        while engine.has_unfinished_requests():
            for output in engine.step():
                answers = sorted(output.outputs, key=lambda answer: answer.index)
                token_ids = [list(answer.token_ids) for answer in answers]
                yield int(output.request_id), token_ids * copies[output.request_id]


def sample(
    checkpoint: Checkpoint, slots: list[Slot], settings: Settings
) -> Iterator[tuple[tuple[Slot, ...], list[Sample]]]:
    """Samples all slots, those of one problem together.

    Yields:
        The slots of a problem and their samples, as they are finished.

    Raises:
        UsageError: there are fewer GPUs than the options ask for.
    """
    groups = gpu_groups(_devices(), settings.data_parallel_size, settings.tensor_parallel_size)
    batches = by_request(slots)
    numbered = list(enumerate(batches))
    # Dealt out in turn, so that every engine gets prompts of all lengths.
    parts = [numbered[first :: settings.data_parallel_size] for first in range(settings.data_parallel_size)]
    jobs = [
        Job(
            checkpoint.path,
            checkpoint.stop_token_ids,
            settings,
            [(number, batch[0][0], len(batch)) for number, batch in part],
            slots_seed([slot for _, batch in part for slot in batch]) % 2**31,  # numpy's seeds have 32 bits
        )
        for part in parts
        if part
    ]
    for number, answers in jobs[0].run() if len(jobs) == 1 else _run_all(jobs, groups):
        yield batches[number], checkpoint.decode(answers)


def _devices() -> list[str]:
    """The visible GPUs, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


def _run_all(jobs: list[Job], groups: list[str]) -> Iterator[Answers]:
    """Runs each job in a process of its own."""
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
    if group:  # set before the process begins, since what it imports may look at it
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
                f"--data-parallel-size {len(processes)}: engine {number} ended with exit code {process.exitcode}, for "
                "a reason printed above; what was sampled is kept, and the same command goes on"
            )


def _run_in_process(job: Job, answers: "Queue[Answers | None]", parent: int) -> None:
    for answer in job.run():
        answers.put(answer)
        if os.getppid() != parent:  # killed, so that nobody would write down the rest
            raise SystemExit(1)
    answers.put(None)
