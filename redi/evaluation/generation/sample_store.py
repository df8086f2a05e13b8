"""The folder that generations are appended to, and what is there already when a run is taken up again."""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.files import BENCHMARK, CONFIG, GENERATIONS, GRADED, read_config
from redi.evaluation.generation.requests import Request, Sample, Slot
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.jsonl import line, parse_line
from redi.runs.manifest import MANIFEST

# A model and a benchmark may move, more samples or problems be asked for, and another machine go on. The other options
# are in the samples' keys too; comparing them first gives a message that names the option.
_NOT_COMPARED = (
    *("model", "revision", "chat_template", "benchmarks", "protocol", "shard", "packages", "n"),
    *("batch_size", "tensor_parallel_size", "data_parallel_size", "concurrency", "base_url", "served_model_name"),
)
_FIELDS = ("benchmark", "id", "sample_idx", "key")


class Output:
    """The folder of a run: its options, its benchmarks and the generations so far.

    A context manager: between its begin and its end no other process writes into the folder.
    """

    def __init__(self, folder: Path, config: dict[str, Any], benchmarks: list[Benchmark], requests: list[Request]):
        """Looks at a new folder or that of an earlier run.

        Raises:
            UsageError: the folder holds something else, or was begun with other options.
        """
        self.folder = folder
        self.generations = folder / GENERATIONS
        self._config = json.dumps(config, indent=2) + "\n"
        self._benchmark = "".join(
            line({"benchmark": benchmark.name, "id": problem.id, "problem": problem.problem, "answer": problem.answer})
            for benchmark in benchmarks
            for problem in benchmark.problems
        )
        self._requests = {(request.benchmark, request.id): request for request in requests}
        if (folder / CONFIG).is_file():
            begun = read_config(folder)
            _check_same(begun, json.loads(self._config), folder)
            if begun["n"] > config["n"]:
                raise UsageError(
                    f"--output {folder} was begun with n {begun['n']}, now it is {config['n']}; ask for at least as "
                    "many, or choose another folder"
                )
        elif folder.exists() and (not folder.is_dir() or any(not _is_shard(path) for path in folder.iterdir())):
            raise UsageError(f"--output {folder} exists and holds no generations; choose another folder")
        for shard in self._shards():
            _check_same(read_config(shard), json.loads(self._config), shard)
        self._stream: BinaryIO | None = None
        self.present: set[Slot] = set()

    def __enter__(self) -> "Output":
        """Reads which samples the folder has.

        Raises:
            UsageError: another process writes into it, or it has samples that are not asked for.
        """
        if self.generations.is_file():
            self._stream = self._open()
            self.present = {slot for slot, _ in self._read(self.generations, cut=True)}
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def _open(self) -> BinaryIO:
        stream = self.generations.open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--output {self.folder}: another process is sampling into it; give each its part with --shard"
            ) from None
        except OSError:
            pass  # a file system without locks
        return stream

    def _read(self, path: Path, cut: bool) -> Iterator[tuple[Slot, bytes]]:
        """The samples in a file and their lines. A half-written last line is left out, or cut off, saying so."""
        if not path.is_file():
            return
        end = 0
        with path.open("rb") as stream:
            for number, text in enumerate(stream, start=1):
                if not text.endswith(b"\n"):
                    if cut:
                        os.truncate(path, end)
                    print(f"note: {'cut' if cut else 'left'} a half-written last line off {path}", file=sys.stderr)
                    return
                end += len(text)
                if text.strip():
                    yield self._slot(text.decode("ascii", errors="replace"), f"{path}, line {number}"), text

    def _slot(self, text: str, where: str) -> Slot:
        row = parse_line(text, where, _FIELDS)
        request = self._requests.get((row["benchmark"], row["id"]))
        if request is None:
            raise UsageError(
                f"{where}: a sample of {row['benchmark']} '{row['id']}', which is not asked for; name all benchmarks "
                "of the folder, or choose another --output"
            )
        if request.key != row["key"]:
            raise UsageError(
                f"{where}: {row['benchmark']} '{row['id']}' was sampled from another prompt; choose another --output"
            )
        return request, row["sample_idx"]

    def begin(self) -> None:
        """Writes options and golds, and takes away what samples to come or other golds would make stale."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stream = self._stream or self._open()
        write_text(self.folder / BENCHMARK, self._benchmark)
        write_text(self.folder / CONFIG, self._config)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        if (self.folder / GRADED).exists():
            (self.folder / GRADED).unlink()
            print(f"note: removed {self.folder / GRADED}, which is out of date; grade again", file=sys.stderr)

    def is_finished(self) -> bool:
        """Whether an earlier run ended here that had the same golds; what is missing now is not looked at."""
        golds = self.folder / BENCHMARK
        return (self.folder / MANIFEST).is_file() and golds.read_text(encoding="utf-8") == self._benchmark

    def append(self, slots: tuple[Slot, ...], samples: list[Sample]) -> None:
        """Writes what was sampled together and waits until it is on disk."""
        rows = [
            {"benchmark": request.benchmark, "id": request.id, "sample_idx": index, "prompt": request.prompt}
            | asdict(sample)
            | {"key": request.key}
            for (request, index), sample in zip(slots, samples, strict=True)
        ]
        self._stream.write("".join(line(row) for row in rows).encode("ascii"))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _shards(self) -> list[Path]:
        found = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted(path for path in found if _is_shard(path) and (path / CONFIG).is_file())

    def gather(self) -> None:
        """Copies the samples of finished and unfinished shards that are not here yet."""
        shards, found = self._shards(), 0
        for shard in shards:
            for slot, text in self._read(shard / GENERATIONS, cut=False):
                if slot not in self.present:
                    self._stream.write(text)
                    self.present.add(slot)
                    found += 1
        self._stream.flush()
        if shards:
            print(f"gathered {found} samples from {len(shards)} shards: {', '.join(shard.name for shard in shards)}")


def shard_folder(folder: Path, index: int, count: int) -> Path:
    """Where one of several processes, each with its part of the problems, puts its samples."""
    return folder / f"shard-{index}-of-{count}"


def _is_shard(path: Path) -> bool:
    return re.fullmatch(r"shard-\d+-of-\d+", path.name) is not None


def _check_same(begun: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    for key, value in config.items():
        if key not in _NOT_COMPARED and begun.get(key) != value:
            raise UsageError(
                f"--output {folder} was begun with {key} {json.dumps(begun.get(key))}, now it is {json.dumps(value)}; "
                f"choose another folder, or the same options to go on"
            )
