"""Samples answers to benchmarks into `generations.jsonl`, so that a stopped run goes on where it was.

Every sample is stored with a key of what decides it (`requests.py`). What the folder has is kept, whatever is
missing is sampled: after a kill, for a larger n, or for further problems. Samples are synced to disk as they come.
With the transformers back end each has its own random numbers, from its key and index.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.files import CONFIG, read_config
from redi.evaluation.generation.model import Checkpoint, load_checkpoint
from redi.evaluation.generation.requests import Sample, Settings, Slot, make_requests, make_slots
from redi.evaluation.generation.sample_store import Output, shard_folder
from redi.runs.errors import UsageError
from redi.runs.files import fingerprint
from redi.runs.manifest import PACKAGES, write_manifest

Sampler = Callable[[Checkpoint, list[Slot], Settings], Iterator[tuple[tuple[Slot, ...], list[Sample]]]]
DEFAULT_SEED = 42


def generate(
    model: str,
    benchmarks: list[Benchmark],
    output: Path,
    settings: Settings,
    shard: tuple[int, int] | None = None,
    protocol: str | None = None,
) -> None:
    """Samples every problem `settings.n` times; writes generations, golds, options and a manifest to `output`.

    Args:
        model: folder or Hub id of a model with a chat template; with `--api chat` a server's name for a model.
        benchmarks: what is asked.
        output: a new folder, or that of an earlier run, which is completed.
        settings: how to sample.
        shard: (i, n): only the i-th of n parts of the problems, into a folder of its own in `output`. Without it, what
            shards have sampled is gathered, and the rest sampled.
        protocol: its name, to be recorded.

    Raises:
        UsageError: bad options, benchmarks or model, or a folder of another run.
    """
    started = time.time()
    if shard is not None:
        output = shard_folder(output, *shard)
    sampler = _sampler(settings.backend)
    settings = _with_defaults(settings)
    checkpoint = _checkpoint(model, settings)
    settings = _with_model_defaults(settings, checkpoint, output)
    run = _run(settings, checkpoint)
    requests = make_requests(benchmarks, checkpoint, settings, run)
    config = _config(settings, checkpoint, run, benchmarks) | {"protocol": protocol, "shard": shard}
    slots = make_slots(requests[shard[0] - 1 :: shard[1]] if shard else requests, settings.n)
    with Output(output, config, benchmarks, requests) as folder:
        if all(slot in folder.present for slot in slots) and folder.is_finished():
            print(f"nothing left to do: {folder.generations} is complete")
            return
        if settings.backend == "openai":
            from redi.evaluation.generation.openai_backend import check_server

            check_server(checkpoint, settings)
        folder.begin()
        if shard is None:
            folder.gather()
        left = [slot for slot in slots if slot not in folder.present]
        _sample(sampler, checkpoint, settings, folder, left, len(slots))
        _finish(folder, config, {"model": checkpoint.path} | {task.name: task.path for task in benchmarks}, started)


def _sampler(backend: str) -> Sampler:
    if backend == "vllm":
        if find_spec("vllm") is None:
            raise UsageError('--backend vllm: vLLM is missing; pip install -e ".[gpu]", or --backend transformers')
        from redi.evaluation.generation.vllm_backend import sample
    elif backend == "openai":
        if find_spec("openai") is None:
            raise UsageError('--backend openai: the client is missing; pip install -e ".[openai]"')
        from redi.evaluation.generation.openai_backend import sample
    else:
        from redi.evaluation.generation.transformers_backend import sample
    return sample


def _with_defaults(settings: Settings) -> Settings:
    """Fills in what the back end needs and the command line left open."""
    if settings.backend == "openai":  # without a seed unless one is asked for: not every server takes one
        from redi.evaluation.generation.openai_backend import with_defaults

        return with_defaults(settings)
    settings = replace(settings, seed=DEFAULT_SEED if settings.seed is None else settings.seed)
    settings = replace(settings, dtype=settings.dtype or Checkpoint.default_dtype())
    if settings.backend == "vllm":
        tensor = settings.tensor_parallel_size or 1
        engines = settings.data_parallel_size or num_engines(torch.cuda.device_count(), tensor)
        if engines > 1:
            print(f"vllm: {engines} engines on {engines * tensor} GPUs; --data-parallel-size sets how many")
        settings = replace(settings, tensor_parallel_size=tensor, data_parallel_size=engines)
    return settings


def num_engines(num_gpus: int, tensor_parallel_size: int) -> int:
    """How many engines of `tensor_parallel_size` GPUs use all that are visible; 1 where there are too few, or none."""
    return max(1, num_gpus // tensor_parallel_size)


def _checkpoint(model: str, settings: Settings) -> Checkpoint:
    if settings.api == "chat":
        return Checkpoint(path=model, identity=f"served:{model}")
    weights = settings.backend != "openai"
    return load_checkpoint(model, settings.revision, settings.chat_template, weights)


def _with_model_defaults(settings: Settings, checkpoint: Checkpoint, output: Path) -> Settings:
    """Fills in a batch size, which a run that is taken up again keeps, so that it samples in the same batches."""
    if settings.backend == "transformers" and settings.batch_size is None:
        begun = read_config(output) if (output / CONFIG).is_file() else {}
        size = begun.get("batch_size") or checkpoint.default_batch_size(settings.max_tokens, settings.dtype)
        settings = replace(settings, batch_size=size)
    return settings


def _run(settings: Settings, checkpoint: Checkpoint) -> dict[str, Any]:
    """What decides the samples besides the prompt and the room after it: part of every sample's key."""
    names = ("temperature", "top_p", "seed", "dtype", "api")
    return {
        # With token ids, a server is a way to run the model that is here; with messages, it is what is asked.
        "server": [settings.base_url, settings.served_model_name] if settings.api == "chat" else None,
        "model_sha256": checkpoint.identity,
        "engine": _engine(settings.backend),
        "stop_token_ids": list(checkpoint.stop_token_ids),
    } | {name: getattr(settings, name) for name in names}


def _engine(backend: str) -> str:
    """Name and version of what samples; a server's version is not known."""
    if backend == "openai":
        return "openai"
    installed = {distribution.name for distribution in distributions()}
    packages = [name for name in (backend, f"{backend}-cpu") if name in installed]
    return f"{backend} {version(packages[0])}"


def _config(settings: Settings, checkpoint: Checkpoint, run: dict[str, Any], benchmarks: list[Benchmark]) -> dict:
    """Everything that makes the run what it is, and the packages that it was begun with."""
    installed = {distribution.name for distribution in distributions()}
    return (
        asdict(settings)
        | run
        | {
            "model": checkpoint.path,
            "chat_template_sha256": checkpoint.template_sha256,
            "max_positions": checkpoint.max_positions,
            "benchmarks": {task.name: fingerprint(task.path) for task in benchmarks},
            "packages": {name: version(name) for name in PACKAGES if name in installed},
        }
    )


def _sample(
    sampler: Sampler, checkpoint: Checkpoint, settings: Settings, folder: Output, left: list[Slot], total: int
) -> None:
    """Samples what is left, showing how many samples of all are done, tokens a second, and the time left."""
    if not left:
        return
    with tqdm(total=total, initial=total - len(left), desc="samples", unit="") as bar:
        num_tokens, begun = 0, time.time()
        for slots, samples in sampler(checkpoint, left, settings):
            folder.append(slots, samples)
            num_tokens += sum(sample.num_tokens for sample in samples)
            bar.set_postfix_str(f"{num_tokens / (time.time() - begun):.0f} tokens/s", refresh=False)
            bar.update(len(slots))


def _finish(folder: Output, config: dict[str, Any], inputs: dict[str, str | Path], started: float) -> None:
    reasons, num_tokens = Counter(), 0
    with folder.generations.open(encoding="ascii") as stream:
        for text in stream:
            row = json.loads(text)
            reasons[row["finish_reason"]] += 1
            num_tokens += row["num_tokens"]
    write_manifest(
        folder.folder,
        config=config,
        inputs=inputs,
        counts={"samples": sum(reasons.values()), "tokens": num_tokens, **reasons},
        seed=config["seed"],
        started=started,
    )
    print(f"{sum(reasons.values())} samples, {num_tokens} tokens, {dict(reasons)}: {folder.generations}")
