"""The folder that samples are appended to, and what a resumed run finds in it.

A folder gains benchmarks, problems and samples over time. All of them share the sampling parameters.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from redi.evaluation.benchmarks import Benchmark, Problem, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED, SAMPLING, read_sampling, sample_key, sampling_file
from redi.evaluation.generation.requests import Prompt, Request, Sample
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.jsonl import line, parse_line
from redi.runs.manifest import MANIFEST

# A model or benchmark may move, more may be asked for, and another machine may continue. Every other option is in the
# samples' keys too; comparing it first gives a message that names the option.
_NOT_COMPARED = (
    *("model", "revision", "chat_template", "benchmarks", "protocol", "shard", "n", "limit"),
    *("batch_size", "tensor_parallel_size", "data_parallel_size", "concurrency", "base_url", "served_model_name"),
)
_FIELDS = ("benchmark", "id", "sample_idx", "key")
SHARD = "shard-{}-of-{}"  # the folder in which one of several processes puts its part of the samples


class SampleStore:
    """The folder of a run: its sampling options, its problems and the samples so far.

    A context manager: while it is open, no other process writes into the folder.
    """

    def __init__(self, folder: Path, config: dict[str, Any], benchmarks: list[Benchmark], prompts: list[Prompt]):
        """Looks at a new folder, or at that of an earlier run; refuses other contents, and samples with other options.

        `config` are the sampling options. `sampling.json` gets them, with the benchmarks of earlier runs; `n` is null
        there if it differs by benchmark. `config["limit"]` is how many problems of each benchmark are asked; those
        that an earlier run asked stay asked. `prompts` are those of all problems.
        """
        self.folder, self.generations, self.config = folder, folder / GENERATIONS, config
        self._begun, self._limit = read_sampling(folder), config.get("limit")
        shards = set(folder.glob(SHARD.format("*", "*")))
        has_others = folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - shards)
        if sampling_file(folder) is None and has_others:
            raise UsageError(f"--output {folder} exists and holds no samples; choose another folder")
        self._shards = sorted(filter(sampling_file, shards))
        for begun in (folder, *self._shards):
            _check_same(begun, config)
        self._before = read_asked(folder / BENCHMARK)
        self._asked: dict[str, dict[str, Problem]] = {}
        for task in benchmarks:
            wanted = {str(problem.id) for problem in task.problems[: self._limit]}
            wanted |= self._before.get(task.name, {}).keys()
            asked = {name: problem for problem in task.problems if (name := str(problem.id)) in wanted}
            self._asked[task.name] = asked
        self._limited = [task.name for task in benchmarks if len(self._asked[task.name]) < len(task.problems)]
        self._prompts = {(prompt.benchmark, str(prompt.id)): prompt for prompt in prompts}
        self.asked = [prompt for prompt in prompts if str(prompt.id) in self._asked[prompt.benchmark]]
        self._stream: BinaryIO | None = None
        self.present: set[Request] = set()

    def __enter__(self) -> "SampleStore":
        """Reads which samples the folder has; refuses those of other prompts, and a folder that is being written."""
        if self.generations.is_file():
            self._open()
            try:
                self.present = {request for request, _ in self._read(self.generations, cut=True)}
            except UsageError:
                self._stream.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if kind in (KeyboardInterrupt, SystemExit):
            kept = f"the samples finished so far are kept in {self.generations}"
            print(f"\n{kept}; the same command draws the others", file=sys.stderr)

    def _open(self) -> None:
        self._stream = self.generations.open("ab")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another process is sampling into it; give each its part with --shard"
            raise UsageError(f"--output {self.folder}: {what}") from None
        except OSError:
            pass  # a file system without locks

    def _read(self, path: Path, cut: bool) -> Iterator[tuple[Request, bytes]]:
        """The samples in a file that are of this run's benchmarks; a half-written last line is skipped, or `cut`."""
        end, seen = 0, {}
        with path.open("rb") as stream:
            for number, text in enumerate(stream, start=1):
                where = f"{path}, line {number}"
                if not text.endswith(b"\n"):
                    if cut:
                        os.truncate(path, end)
                    what = "cut off" if cut else "skipped"
                    print(f"note: {what} a half-written last line of {path}", file=sys.stderr)
                elif text.strip():
                    row = parse_line(text.decode("ascii", errors="replace"), where, _FIELDS)
                    sample_key(row, path, number, seen)
                    if row["benchmark"] in self._asked:
                        yield self._request(row, where), text
                end += len(text)

    def _request(self, row: dict[str, Any], where: str) -> Request:
        prompt, name = self._prompts.get((row["benchmark"], str(row["id"]))), f"{row['benchmark']} '{row['id']}'"
        if prompt is None:
            remedy = "put the problem back, or choose another folder with --output"
            raise UsageError(f"{where}: a sample of {name}, which is no longer in the benchmark; {remedy}")
        if prompt.key != row["key"]:
            raise UsageError(f"{where}: {name} was sampled from another prompt; {_remedy(self.folder)}")
        return Request(prompt, row["sample_idx"])

    def begin(self) -> None:
        """Writes options and problems, and removes what further samples or changed reference answers make stale.

        Refuses to finish a benchmark with fewer samples or problems than were asked for before.
        """
        old_folders = dict.fromkeys(self._begun.get("benchmarks", {}), self._begun.get("n"))
        begun, n = self._begun.get("samples_per_problem", old_folders), self.config["n"]
        for name in self._asked:
            num_problems = len(self._before.get(name, {}))
            limits = num_problems, self._limit or num_problems
            for what, before, now in (("n", begun.get(name, n), n), ("limit", *limits)):
                if before > now:
                    remedy = "ask for at least as many, or choose another folder with --output"
                    begun_with = f"{what} {before} for {name}, now it is {now}"
                    raise UsageError(f"--output {self.folder} was begun with {begun_with}; {remedy}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._stream is None:
            self._open()
        samples = begun | dict.fromkeys(self._asked, n)
        limits = {name: limit for name, limit in self._begun.get("limits", {}).items() if name not in self._asked}
        limits |= dict.fromkeys(self._limited, self._limit)
        self.config |= {"samples_per_problem": samples, "limits": limits, "limit": max(limits.values(), default=None)}
        self.config["n"] = n if len(set(samples.values())) < 2 else None
        self.config["benchmarks"] = self._begun.get("benchmarks", {}) | self.config["benchmarks"]
        old = sampling_file(self.folder)
        write_text(self.folder / BENCHMARK, self._problems())
        write_text(self.folder / SAMPLING, json.dumps(self.config, indent=2) + "\n")
        if old is not None and old.name != SAMPLING:
            old.unlink()
        (self.folder / MANIFEST).unlink(missing_ok=True)
        if (self.folder / GRADED).exists():
            (self.folder / GRADED).unlink()
            print(f"note: removed {self.folder / GRADED}, which is out of date; grade again", file=sys.stderr)

    def _problems(self) -> str:
        """The content of `benchmark.jsonl`."""
        return "".join(
            line({"benchmark": task, "id": problem.id, "problem": problem.problem, "answer": problem.answer})
            for task, problems in (self._before | self._asked).items()
            for problem in problems.values()
        )

    def is_finished(self) -> bool:
        """Whether an earlier run ended here with the same problems and reference answers."""
        problems = self.folder / BENCHMARK
        finished = (self.folder / MANIFEST).is_file() and problems.is_file()
        return finished and problems.read_text(encoding="utf-8") == self._problems()

    def append(self, requests: list[Request], samples: list[Sample]) -> None:
        """Writes what was sampled together and waits until it is on disk."""
        for (prompt, index), sample in zip(requests, samples, strict=True):
            row = {"benchmark": prompt.benchmark, "id": prompt.id, "sample_idx": index, "prompt": prompt.text}
            self._stream.write(line(row | sample._asdict() | {"key": prompt.key}).encode("ascii"))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def gather(self) -> None:
        """Copies the samples of finished and unfinished shards that are not here yet."""
        found, asked = 0, set(self.asked)
        for shard in [shard for shard in self._shards if (shard / GENERATIONS).is_file()]:
            for request, text in self._read(shard / GENERATIONS, cut=False):
                if request not in self.present and request.prompt in asked:
                    self._stream.write(text)
                    self.present.add(request)
                    found += 1
        self._stream.flush()
        if self._shards:
            names = ", ".join(shard.name for shard in self._shards)
            print(f"gathered {found} samples from {len(self._shards)} shards: {names}")


def _check_same(folder: Path, config: dict[str, Any]) -> None:
    """Refuses a folder that was begun with other options."""
    begun = read_sampling(folder)
    for key in config if sampling_file(folder) else ():
        if key not in _NOT_COMPARED and begun.get(key) != config[key]:
            before, now = json.dumps(begun.get(key)), json.dumps(config[key])
            raise UsageError(f"--output {folder} was begun with {key} {before}, now it is {now}; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"use the same options, or another --output (or move {folder.name} away)"
