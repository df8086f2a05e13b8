"""Samples answers to benchmarks into `generations.jsonl`, so that a stopped run goes on where it was.

All the work is laid out beforehand in batches. A batch's lines are appended together and synced to disk; on a restart
what is there in full is kept and the rest is generated. With the transformers back end a batch's seed comes from the
run's seed and the batch's content, so that a resumed run equals an uninterrupted one; vLLM has one for the engine.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from redi.evaluation.benchmarks import Benchmark, load_benchmarks
from redi.evaluation.checkpoint import Checkpoint, load_checkpoint
from redi.evaluation.output import Output
from redi.evaluation.plan import Batch, Sample, Settings, check_lengths, make_batches, make_requests
from redi.evaluation.records import CONFIG, read_config
from redi.runs import PACKAGES, UsageError, fingerprint, read_manifest, write_manifest

Sampler = Callable[[Checkpoint, list[Batch], Settings], Iterator[tuple[Batch, list[Sample]]]]


def generate(model: str, benchmarks: list[str], output: Path, settings: Settings, benchmark_folder: Path) -> None:
    """Samples every problem `settings.n` times; writes generations, golds, options and a manifest to `output`.

    Args:
        model: folder or Hub id of a model with a chat template.
        benchmarks: known names or JSONL files.
        output: a new folder, or that of the same run, stopped earlier.
        settings: how to sample.
        benchmark_folder: where known names are looked up.

    Raises:
        UsageError: bad options, benchmarks or model, or a folder of another run.
    """
    started = time.time()
    tasks = load_benchmarks(benchmarks, benchmark_folder)
    sampler = _sampler(settings)
    checkpoint = load_checkpoint(model)
    settings = _resolve(settings, checkpoint, output)
    requests = make_requests(tasks, checkpoint.tokenizer, settings.prompt)
    check_lengths(requests, settings.max_tokens, checkpoint.max_positions)
    config = _config(settings, checkpoint, tasks)
    folder = Output(output, config, tasks)
    batches = make_batches(requests, settings.n, settings.batch_size)
    left = folder.recover(batches)
    if not left and read_manifest(output) is not None:
        print(f"nothing left to do: {folder.generations} is complete")
        return
    total = len(requests) * settings.n
    with tqdm(total=total, initial=total - sum(map(len, left)), desc="samples", unit="") as bar:
        num_tokens, begun = 0, time.time()
        for batch, samples in sampler(checkpoint, left, settings) if left else ():
            folder.append(batch, samples)
            num_tokens += sum(sample.num_tokens for sample in samples)
            bar.set_postfix_str(f"{num_tokens / (time.time() - begun):.0f} tokens/s", refresh=False)
            bar.update(len(batch))
    _finish(folder, config, checkpoint, tasks, started)


def _sampler(settings: Settings) -> Sampler:
    if settings.backend == "vllm":
        if settings.batch_size is not None:
            raise UsageError("--batch-size is for --backend transformers; vLLM makes its own batches")
        if find_spec("vllm") is None:
            raise UsageError('--backend vllm: vLLM is missing; pip install -e ".[gpu]", or --backend transformers')
        from redi.evaluation.vllm_backend import sample
    else:
        from redi.evaluation.transformers_backend import sample
    return sample


def _resolve(settings: Settings, checkpoint: Checkpoint, output: Path) -> Settings:
    """Fills in the dtype and the batch size; a run that is taken up again keeps its batch size."""
    settings = replace(settings, dtype=settings.dtype or checkpoint.default_dtype())
    if settings.backend == "transformers" and settings.batch_size is None:
        begun = read_config(output) if (output / CONFIG).is_file() else {}
        size = begun.get("batch_size") or checkpoint.default_batch_size(settings.max_tokens, settings.dtype)
        settings = replace(settings, batch_size=size)
    return settings


def _config(settings: Settings, checkpoint: Checkpoint, tasks: list[Benchmark]) -> dict:
    """Everything that makes the run what it is, and the packages that it was begun with."""
    installed = {distribution.name for distribution in distributions()}
    return asdict(settings) | {
        "model": checkpoint.path,
        "model_sha256": fingerprint(checkpoint.path),
        "chat_template_sha256": checkpoint.template_sha256,
        "stop_token_ids": list(checkpoint.stop_token_ids),
        "max_positions": checkpoint.max_positions,
        "benchmarks": {task.name: fingerprint(task.path) for task in tasks},
        "packages": {name: version(name) for name in PACKAGES if name in installed},
    }


def _finish(folder: Output, config: dict, checkpoint: Checkpoint, tasks: list[Benchmark], started: float) -> None:
    reasons, num_tokens = Counter(), 0
    with folder.generations.open(encoding="ascii") as stream:
        for text in stream:
            row = json.loads(text)
            reasons[row["finish_reason"]] += 1
            num_tokens += row["num_tokens"]
    write_manifest(
        folder.folder,
        config=config,
        inputs={"model": checkpoint.path} | {task.name: task.path for task in tasks},
        counts={"samples": sum(reasons.values()), "tokens": num_tokens, **reasons},
        seed=config["seed"],
        started=started,
    )
    print(f"{sum(reasons.values())} samples, {num_tokens} tokens, {dict(reasons)}: {folder.generations}")
