"""The folder that generations are appended to, and what is there already when a run is taken up again."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redi.evaluation.benchmarks import Benchmark
from redi.evaluation.plan import Batch, Sample, Slot
from redi.evaluation.records import BENCHMARK, CONFIG, GENERATIONS, line, parse_line, read_config
from redi.runs import UsageError, write_text

# A moved model or benchmark is the same one: what is in them is compared by hash.
_NOT_COMPARED = ("model", "benchmark_paths")


class Output:
    """The folder of a run: its options, its benchmarks and the generations so far."""

    def __init__(self, folder: Path, config: dict[str, Any], benchmarks: list[Benchmark]):
        """Opens a new or an unfinished folder.

        Raises:
            UsageError: the folder holds something else, or was begun with other options.
        """
        self.folder = folder
        self.generations = folder / GENERATIONS
        if (folder / CONFIG).is_file():
            _check_same(read_config(folder), json.loads(json.dumps(config)), folder)
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--output {folder} exists and holds no generations; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"benchmark": benchmark.name, "id": problem.id, "problem": problem.problem, "answer": problem.answer}
            for benchmark in benchmarks
            for problem in benchmark.problems
        ]
        write_text(folder / BENCHMARK, "".join(line(row) for row in rows))
        write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")

    def recover(self, batches: list[Batch]) -> list[Batch]:
        """Keeps the lines of the batches that are there in full, and returns the batches that are not."""
        if not self.generations.is_file():
            return batches
        batch_of = {_key(slot): number for number, batch in enumerate(batches) for slot in batch}
        owners = [batch_of.get(key) for key in self._keys()]
        found = Counter(owners)
        complete = {number for number, batch in enumerate(batches) if found[number] == len(batch)}
        kept = self.generations.with_name(f".{self.generations.name}.tmp-{os.getpid()}")
        with self.generations.open("rb") as lines, kept.open("wb") as stream:
            # Stops before a half-written last line, which has no owner.
            stream.writelines(text for owner, text in zip(owners, lines, strict=False) if owner in complete)
        kept.replace(self.generations)
        return [batch for number, batch in enumerate(batches) if number not in complete]

    def _keys(self) -> Iterator[tuple[str, str | int, int]]:
        with self.generations.open("rb") as stream:
            for number, text in enumerate(stream, start=1):
                if not text.endswith(b"\n"):
                    print(f"note: cut a half-written last line off {self.generations}", file=sys.stderr)
                    return
                where = f"{self.generations}, line {number}"
                row = parse_line(text.decode("ascii", errors="replace"), where, ("benchmark", "id", "sample_idx"))
                yield row["benchmark"], row["id"], row["sample_idx"]

    def append(self, batch: Batch, samples: list[Sample]) -> None:
        """Writes one batch and waits until it is on disk."""
        rows = [
            {"benchmark": request.benchmark, "id": request.id, "sample_idx": index, "prompt": request.prompt}
            | asdict(sample)
            for (request, index), sample in zip(batch, samples, strict=True)
        ]
        with self.generations.open("a", encoding="ascii") as stream:
            stream.write("".join(line(row) for row in rows))
            stream.flush()
            os.fsync(stream.fileno())


def _key(slot: Slot) -> tuple[str, str | int, int]:
    return slot[0].benchmark, slot[0].id, slot[1]


def _check_same(begun: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    for key, value in config.items():
        if key not in (*_NOT_COMPARED, "packages") and begun.get(key) != value:
            raise UsageError(
                f"--output {folder} was begun with {key} {json.dumps(begun.get(key))}, now it is {json.dumps(value)}; "
                f"choose another folder, or the same options to go on"
            )
