"""Samples answers to benchmarks into `generations.jsonl`: options, prompts, requests, back end, sample store.

Every sample is stored with a key of what decides it. A run keeps the samples that the folder has and draws the missing
ones: after a kill, for a larger n, or for more problems. Samples are synced to disk as they arrive. With the
transformers back end, each sample has its own random numbers, from its key and index.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import distributions, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from signal import SIGTERM, signal
from typing import Any

import torch
from tqdm import tqdm

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.files import read_samples, read_sampling, sampling_file
from redi.evaluation.generation.gpus import num_engines
from redi.evaluation.generation.model import SamplingModel, load_model
from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Request, Sample, make_prompts, make_requests
from redi.evaluation.generation.sample_store import SampleStore, shard_folder
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import fingerprint
from redi.runs.manifest import PACKAGES, write_manifest

Backend = Callable[[SamplingModel, list[Request], SamplingOptions], Iterator[tuple[list[Request], list[Sample]]]]
DEFAULT_SEED = 42


def generate(
    model: str,
    benchmarks: list[Benchmark],
    output: Path,
    options: SamplingOptions,
    shard: tuple[int, int] | None = None,
    protocol: str | None = None,
    limit: int | None = None,
) -> None:
    """Samples every problem `options.n` times; writes samples, problems, options and a manifest to `output`.

    Args:
        model: folder or Hub id of a model with a chat template; with `--api chat` a server's name for a model.
        benchmarks: what is asked.
        output: a new folder, or that of an earlier run, which is added to.
        options: how to sample.
        shard: (i, n): only the i-th of n parts, into a separate folder in `output`. Without it, the samples of all
            shards are gathered, and the missing ones drawn.
        protocol: its name, to be recorded.
        limit: ask only the first problems of each benchmark; a later run without it adds the others.
    """
    started = time.time()
    if shard is not None:
        output = shard_folder(output, *shard)
    sample = _backend(options.backend)
    options = _with_defaults(options)
    loaded = _load_model(model, options)
    options = _with_batch_size(options, loaded, output)
    run = _run(options, loaded)
    prompts = make_prompts(benchmarks, loaded, options, run)
    config = _config(options, loaded, run, benchmarks) | {"protocol": protocol, "shard": shard, "limit": limit}
    with SampleStore(output, config, benchmarks, prompts) as store:
        asked = store.asked()
        requests = make_requests(asked[shard[0] - 1 :: shard[1]] if shard else asked, options.n)
        if store.is_finished() and all(request in store.present for request in requests):
            print(f"nothing left to do: {store.generations} has these samples")
            return
        if options.backend == "openai":
            from redi.evaluation.generation.openai_backend import check_server

            check_server(loaded, options)
        store.begin()
        if shard is None:
            store.gather()
        missing = [request for request in requests if request not in store.present]
        _sample(sample(loaded, missing, options) if missing else (), store, len(missing), len(requests))
        _finish(store, {"model": loaded.path} | {task.name: task.path for task in benchmarks}, started)


def generate_in_child(*arguments: Any) -> None:
    """As `generate`, in a child process: only its end is sure to free vLLM's GPUs, which others wait for."""
    process = get_context("spawn").Process(target=_generate, args=arguments)
    process.start()
    before = signal(SIGTERM, _exit)
    try:
        process.join()
    finally:  # an interrupted parent does not leave its child behind
        process.terminate()
        signal(SIGTERM, before)
    if process.exitcode:
        raise SystemExit(process.exitcode if process.exitcode > 0 else 128 - process.exitcode)


def _exit(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)


def _generate(*arguments: Any) -> None:
    entry_point(lambda _: generate(*arguments))([])


def _backend(name: str) -> Backend:
    if name == "vllm":
        if find_spec("vllm") is None:
            raise UsageError('--backend vllm: vLLM is missing; pip install -e ".[gpu]", or use --backend transformers')
        from redi.evaluation.generation.vllm_backend import sample
    elif name == "openai":
        if find_spec("openai") is None:
            raise UsageError('--backend openai: the client is missing; pip install -e ".[openai]"')
        from redi.evaluation.generation.openai_backend import sample
    else:
        from redi.evaluation.generation.transformers_backend import sample
    return sample


def _with_defaults(options: SamplingOptions) -> SamplingOptions:
    """Fills in what the back end needs and the command line did not give."""
    if options.backend == "openai":  # no default seed: not every server takes one
        from redi.evaluation.generation.openai_backend import with_defaults

        return with_defaults(options)
    options = replace(options, seed=DEFAULT_SEED if options.seed is None else options.seed)
    options = replace(options, dtype=options.dtype or SamplingModel.default_dtype())
    if options.backend == "vllm":
        tensor = options.tensor_parallel_size or 1
        engines = options.data_parallel_size or num_engines(torch.cuda.device_count(), tensor)
        if engines > 1:
            print(f"vllm: {engines} engines on {engines * tensor} GPUs; --data-parallel-size sets how many")
        options = replace(options, tensor_parallel_size=tensor, data_parallel_size=engines)
    return options


def _load_model(model: str, options: SamplingOptions) -> SamplingModel:
    if options.api == "chat":
        return SamplingModel(path=model, identity=f"served:{model}")
    weights = options.backend != "openai"
    return load_model(model, options.revision, options.chat_template, weights)


def _with_batch_size(options: SamplingOptions, model: SamplingModel, output: Path) -> SamplingOptions:
    """Fills in a batch size; a resumed run keeps its own, so it samples in the same batches."""
    if options.backend == "transformers" and options.batch_size is None:
        begun = read_sampling(output) if sampling_file(output) else {}
        size = begun.get("batch_size") or model.default_batch_size(options.max_tokens, options.dtype)
        options = replace(options, batch_size=size)
    return options


def _run(options: SamplingOptions, model: SamplingModel) -> dict[str, Any]:
    """What decides the samples besides a prompt and the room after it: part of every sample's key."""
    names = ("temperature", "top_p", "seed", "dtype", "api")
    return {
        # With token ids, a server is a way to run the model in the folder; with messages, the server is the model.
        "server": [options.base_url, options.served_model_name] if options.api == "chat" else None,
        "model_sha256": model.identity,
        "engine": _engine(options.backend),
        "stop_token_ids": list(model.stop_token_ids),
    } | {name: getattr(options, name) for name in names}


def _engine(backend: str) -> str:
    """Name and version of what samples; a server's version is unknown."""
    if backend == "openai":
        return "openai"
    return f"{backend} {next(iter(_versions((backend, f'{backend}-cpu')).values()))}"


def _versions(packages: Iterable[str]) -> dict[str, str]:
    installed = {distribution.name for distribution in distributions()}
    return {name: version(name) for name in packages if name in installed}


def _config(
    options: SamplingOptions, model: SamplingModel, run: dict[str, Any], benchmarks: list[Benchmark]
) -> dict[str, Any]:
    """Everything that makes the run what it is, and the packages that it was begun with."""
    return {
        **asdict(options),
        **run,
        "model": model.path,
        "chat_template_sha256": model.template_sha256,
        "max_positions": model.max_positions,
        "benchmarks": {task.name: fingerprint(task.path) for task in benchmarks},
        "packages": _versions(PACKAGES),
    }


def _sample(
    batches: Iterator[tuple[list[Request], list[Sample]]], store: SampleStore, num_missing: int, total: int
) -> None:
    """Stores samples as they arrive; shows how many of all are done, the tokens per second and the time left."""
    with tqdm(total=total, initial=total - num_missing, desc="samples", unit="", disable=not num_missing) as bar:
        num_tokens, begun = 0, time.time()
        for requests, samples in batches:
            store.append(requests, samples)
            num_tokens += sum(sample.num_tokens for sample in samples)
            bar.set_postfix_str(f"{num_tokens / (time.time() - begun):.0f} tokens/s", refresh=False)
            bar.update(len(requests))


def _finish(store: SampleStore, inputs: dict[str, str | Path], started: float) -> None:
    reasons, num_tokens = Counter(), 0
    for _, row in read_samples(store.generations, ("finish_reason", "num_tokens")):
        reasons[row["finish_reason"]] += 1
        num_tokens += row["num_tokens"]
    write_manifest(
        store.folder,
        config=store.config,
        inputs=inputs,
        counts={"samples": sum(reasons.values()), "tokens": num_tokens, **reasons},
        seed=store.config["seed"],
        started=started,
    )
    print(f"{sum(reasons.values())} samples, {num_tokens} tokens, {dict(reasons)}: {store.generations}")
