"""Samples answers to benchmarks into `generations.jsonl`: options, prompts, requests, back end, sample store.

Every sample is stored with a key of what decides it. A run keeps the samples that the folder has and draws the missing
ones: after a kill, for a larger n, or for more problems. Samples are synced to disk as they arrive. With the
transformers back end, each sample has its own random numbers, from its key and index.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.files import read_samples, read_sampling
from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.generation.requests import Request, Sample, SamplingModel, load_model, make_prompts, make_requests
from redi.evaluation.generation.sample_store import SHARD, SampleStore
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import fingerprint, signals_raise
from redi.runs.manifest import write_manifest
from redi.text.encoding import TODAY, writes_date

DEFAULT_SEED = 42
_MISSING = {
    "vllm": 'vLLM is missing; pip install -e ".[gpu]", or use --backend transformers',
    "openai": 'the client is missing; pip install -e ".[openai]"',
}


def generate(model: str, benchmarks: list[Benchmark], output: Path, options: SamplingOptions) -> None:
    """Samples every problem `options.n` times; writes samples, problems, options and a manifest to `output`.

    Args:
        model: folder or Hub id of a model with a chat template; with `--api chat` a server's name for a model.
        benchmarks: what is asked.
        output: a new folder, or that of an earlier run, which is added to. With `options.shard`, a folder in it gets
            the samples; without, the samples of all shards are gathered, and the missing ones drawn.
        options: how to sample.
    """
    started, shard = time.time(), options.shard
    output = output / SHARD.format(*shard) if shard else output
    if find_spec(options.backend) is None:
        raise UsageError(f"--backend {options.backend}: {_MISSING[options.backend]}")
    backend = import_module(f"redi.evaluation.generation.{options.backend}_backend")
    if options.api == "chat":
        loaded = SamplingModel(path=model, identity=f"served:{model}")
    else:
        loaded = load_model(model, options.revision, options.chat_template, weights=options.backend != "openai")
    if options.backend != "openai":  # not every server takes a seed
        dtype = options.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
        options = replace(options, seed=DEFAULT_SEED if options.seed is None else options.seed, dtype=dtype)
    options = backend.with_defaults(options, loaded, read_sampling(output))
    has_date = loaded.tokenizer is not None and writes_date(loaded.tokenizer)
    run = _run(options, loaded)
    prompts = make_prompts(benchmarks, loaded, options, run)
    config = asdict(options) | run | {"model": loaded.path, "max_positions": loaded.max_positions}
    config |= {"chat_template_sha256": loaded.template_sha256}
    config["benchmarks"] = {task.name: fingerprint(task.path) for task in benchmarks}
    with SampleStore(output, config, benchmarks, prompts) as store:
        requests = make_requests(store.asked[shard[0] - 1 :: shard[1]] if shard else store.asked, options.n)
        if store.is_finished() and all(request in store.present for request in requests):
            print(f"nothing left to do: {store.generations} has these samples")
            return
        if options.backend == "openai":
            backend.check_server(loaded, options)
        store.begin()
        if shard is None:
            store.gather()
        missing = [request for request in requests if request not in store.present]
        if missing:
            _store(backend.sample(loaded, missing, options), store, len(requests) - len(missing), len(requests))
        inputs = {"model": loaded.path} | {task.name: task.path for task in benchmarks}
        _finish(store, inputs, started, {"template_date": str(TODAY)} if has_date else {})


def generate_in_child(*arguments: Any) -> None:
    """As `generate`, in a child process: only its end is sure to free vLLM's GPUs, which others wait for."""
    process = get_context("spawn").Process(target=_generate, args=arguments)
    with signals_raise():
        process.start()
        try:
            process.join()
        finally:  # an interrupted parent does not leave its child behind
            process.terminate()
    if process.exitcode:
        raise SystemExit(process.exitcode if process.exitcode > 0 else 128 - process.exitcode)


def _generate(*arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the parent as well, which ends this one
    with signals_raise():
        entry_point(lambda _: generate(*arguments))([])


def _run(options: SamplingOptions, model: SamplingModel) -> dict[str, Any]:
    """What decides the samples besides a prompt and the room after it: part of every sample's key."""
    engine = options.backend
    for package in (engine, f"{engine}-cpu") if engine != "openai" else ():  # a server's version is unknown
        with suppress(PackageNotFoundError):
            engine = f"{options.backend} {version(package)}"
    return {
        # With token ids, a server is a way to run the model in the folder; with messages, the server is the model.
        "server": [options.base_url, options.served_model_name] if options.api == "chat" else None,
        "model_sha256": model.identity,
        "engine": engine,
        "stop_token_ids": list(model.stop_token_ids),
    } | {name: getattr(options, name) for name in ("temperature", "top_p", "seed", "dtype", "api")}


def _store(
    batches: Iterable[tuple[list[Request], list[Sample]]], store: SampleStore, num_present: int, total: int
) -> None:
    """Stores samples as they arrive; shows how many of all are done, the tokens per second and the time left."""
    with tqdm(total=total, initial=num_present, desc="samples", unit="") as bar:
        num_tokens, begun = 0, time.time()
        for requests, samples in batches:
            store.append(requests, samples)
            num_tokens += sum(sample.num_tokens for sample in samples)
            bar.set_postfix_str(f"{num_tokens / (time.time() - begun):.0f} tokens/s", refresh=False)
            bar.update(len(requests))


def _finish(store: SampleStore, inputs: dict[str, str | Path], started: float, extra: dict[str, str]) -> None:
    """Writes the manifest and prints the counts."""
    reasons, num_tokens = Counter(), 0
    for _, row in read_samples(store.generations, ("finish_reason", "num_tokens")):
        reasons[row["finish_reason"]] += 1
        num_tokens += row["num_tokens"]
    counts, seed = {"samples": reasons.total(), "tokens": num_tokens, **reasons}, store.config["seed"]
    write_manifest(
        store.folder, config=store.config, inputs=inputs, counts=counts, seed=seed, started=started, extra=extra
    )
    print(f"{reasons.total()} samples, {num_tokens} tokens, {dict(reasons)}: {store.generations}")
