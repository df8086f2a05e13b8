"""Sampling with vLLM: all prompts at once; a prompt's samples are stored when the last of them ends.

Data-parallel engines are separate processes, each with its own GPUs and its share of the prompts, since copies of a
model need to know nothing of each other. An engine's seed comes from what it samples, so added samples do not repeat
earlier ones. Seeds are per engine, since not every device supports one per request: which sample gets which random
numbers depends on what else is running, and two runs agree in distribution only.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Prompt, Request, Sample, SamplingModel, group_by_prompt, seed_of
from redi.runs.errors import UsageError

Batch = tuple[int, Prompt, int]  # the missing samples of one prompt: number of the batch, prompt, number of samples
Answers = tuple[int, list[list[int]]]  # number of the batch, token ids of its samples


def with_defaults(options: SamplingOptions, *_: Any) -> SamplingOptions:
    """Fills in how many GPUs share a model, and how many engines the visible GPUs allow."""
    tensor = options.tensor_parallel_size or 1
    engines = options.data_parallel_size or num_engines(torch.cuda.device_count(), tensor)
    if engines > 1:
        print(f"vllm: {engines} engines on {engines * tensor} GPUs; --data-parallel-size sets how many")
    return replace(options, tensor_parallel_size=tensor, data_parallel_size=engines)


def num_engines(num_gpus: int, tensor_parallel_size: int) -> int:
    """How many engines of `tensor_parallel_size` GPUs use all visible ones; 1 if there are too few, or none."""
    return max(1, num_gpus // tensor_parallel_size)


def gpu_groups(devices: list[str], data_parallel_size: int, tensor_parallel_size: int) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each engine; empty strings if there are no GPUs. Refuses too few GPUs."""
    wanted, size = data_parallel_size * tensor_parallel_size, tensor_parallel_size
    if 0 < len(devices) < wanted:
        product = f"--data-parallel-size {data_parallel_size} x --tensor-parallel-size {size}"
        raise UsageError(f"{product} needs {wanted} GPUs, and {len(devices)} are visible")
    return [",".join(devices[first : first + size]) for first in range(0, wanted, size)]


def run(
    model: str, stop_token_ids: tuple[int, ...], options: SamplingOptions, batches: list[Batch], seed: int
) -> Iterator[Answers]:
    """Samples batches with one engine, and yields each when its last sample ends."""
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    engine = LLM(
        model=model,
        seed=seed,
        dtype=options.dtype,
        max_model_len=max(len(prompt.token_ids) + prompt.max_tokens for _, prompt, _ in batches),
        tensor_parallel_size=options.tensor_parallel_size,
        generation_config="vllm",  # not the model's own: its top_k and penalties are not part of the protocol
        enforce_eager=not torch.cuda.is_available(),  # compiling for a CPU takes minutes
    ).llm_engine
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": -1, "detokenize": False}
    sampling |= {"stop_token_ids": list(stop_token_ids), "output_kind": RequestOutputKind.FINAL_ONLY}
    copies = {}  # vLLM samples a greedy answer only once
    for number, prompt, num_samples in batches:
        n, copies[str(number)] = (num_samples, 1) if options.temperature else (1, num_samples)
        parameters = SamplingParams(**sampling, n=n, max_tokens=prompt.max_tokens)
        engine.add_request(str(number), TokensPrompt(prompt_token_ids=list(prompt.token_ids)), parameters)
    try:
        while engine.has_unfinished_requests():
            for output in engine.step():
                answers = sorted(output.outputs, key=lambda answer: answer.index)
                yield int(output.request_id), [list(each.token_ids) for each in answers] * copies[output.request_id]
    finally:
        for core in active_children():  # vLLM's processes outlive its engine; a child process waits for its children
            core.terminate()


def sample(
    model: SamplingModel, requests: list[Request], options: SamplingOptions
) -> Iterator[tuple[list[Request], list[Sample]]]:
    """Samples all requests; yields those of one prompt and their samples together, as they finish."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    devices = visible.split(",") if torch.cuda.is_available() else []
    groups = gpu_groups(devices, options.data_parallel_size, options.tensor_parallel_size)
    batches = group_by_prompt(requests)
    jobs = []
    for first in range(min(options.data_parallel_size, len(batches))):
        # Dealt out in turn, so that every engine gets prompts of all lengths.
        share = list(enumerate(batches))[first :: options.data_parallel_size]
        seed = seed_of([request for _, batch in share for request in batch]) % 2**31  # numpy's seeds have 32 bits
        numbered = [(number, batch[0].prompt, len(batch)) for number, batch in share]
        jobs.append((model.path, model.stop_token_ids, options, numbered, seed))
    for number, answers in run(*jobs[0]) if len(jobs) == 1 else run_all(jobs, groups):
        yield batches[number], list(map(model.decode, answers))


def run_all(jobs: list[tuple], groups: list[str]) -> Iterator[Answers]:
    """Runs each job, the arguments of `run`, in a process that sees its group of GPUs alone; refuses to lose one."""
    context = get_context("spawn")
    engines, before = {}, os.environ.get("CUDA_VISIBLE_DEVICES")
    for job, group in zip(jobs, groups, strict=False):
        answers, theirs = context.Pipe(duplex=False)
        engines[answers] = context.Process(target=_run_in_process, args=(theirs, *job))
        if group:  # set before the process starts, since its imports may read it
            os.environ["CUDA_VISIBLE_DEVICES"] = group
        engines[answers].start()
        theirs.close()
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})
    try:
        running = dict(engines)
        while running:
            wait([*running, *(process.sentinel for process in running.values())])
            for answers, process in list(running.items()):
                ended = process.exitcode is not None  # before the look into its pipe, which may hold its last answers
                try:
                    if answers.poll():
                        yield answers.recv()
                        continue
                except EOFError:  # it has closed the pipe and is about to end
                    process.join()
                    ended = True
                if ended:
                    del running[answers]
                if ended and process.exitcode:
                    what = f"engine {list(engines).index(answers) + 1} ended with exit code {process.exitcode}"
                    kept = "for the reason printed above; what was sampled is kept, and the same command resumes"
                    raise UsageError(f"--data-parallel-size {len(engines)}: {what} {kept}")
    finally:
        for process in engines.values():
            process.terminate()
            process.join()


def _run_in_process(answers: Connection, *job: Any) -> None:
    with suppress(BrokenPipeError):  # the parent was killed, and nobody stores the rest
        for answer in run(*job):
            answers.send(answer)
