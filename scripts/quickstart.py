"""Runs the quickstart's stages, each by the command that a user would type. Called by scripts/quickstart.sh.

A stage is skipped when it was finished by the same command, with the same recipe, on the same inputs; an interrupted
training or generation goes on where it stopped. Standard output and error of every stage are kept in `logs/`.
"""

import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.runs.cli import StrictParser
from redi.runs.errors import entry_point
from redi.runs.files import write_text
from redi.runs.manifest import read_manifest

REPOSITORY = Path(__file__).parents[1]
PAIRS_PER_STEP = 32
SAMPLING = ["--backend", "transformers", "--n", "4", "--temperature", "0.6", "--top-p", "0.95", "--max-tokens", "80"]
# name, recipe, overrides of the rows that --full adds; learning rates as fixed beforehand for the default rows
FULL_ROWS = [
    ("redi_alpha0", "redi/quickstart", "--alpha 0"),
    ("redi_alpha0.2", "redi/quickstart", "--alpha 0.2"),
    ("redi_alpha0.5", "redi/quickstart", "--alpha 0.5"),
    ("symmetric_alpha1", "redi/quickstart", "--alpha 1"),
    ("redi_alpha0.8_lr2e-4", "redi/quickstart", "--learning_rate 2e-4"),
    ("symmetric_alpha1_lr2e-4", "redi/quickstart", "--alpha 1 --learning_rate 2e-4"),
    ("dpo", "dpo/quickstart", ""),
    ("simpo", "simpo/quickstart", ""),
]
SCRIPTS = {"sft": "train_sft", "redi": "train_redi", "simpo": "train_redi", "dpo": "train_dpo"}


@dataclass(frozen=True)
class Stage:
    """One command: what it is called, what it writes, and the folders whose manifests identify what it reads."""

    name: str
    title: str
    command: list[str]
    output: Path
    reads: tuple[Path, ...] = ()

    def key(self) -> str:
        """Identifies the result: the command, the recipe it names, and the manifests of its inputs."""
        parts = list(self.command)
        parts += [Path(part).read_text() for part in self.command if part.endswith("config.yaml")]
        for folder in self.reads:
            manifest = read_manifest(folder)
            manifest.pop("grading", None)  # added to a folder of generations by the next stage
            parts.append(manifest)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def stages(out: Path, seed: int, full: bool) -> Iterator[Stage]:
    """The stages in order. Each is made when the ones before it are finished, since it may read their manifests."""
    task, positives, pairs = out / "task", out / "positives", out / "pairs"
    python = [sys.executable]
    command = [*python, "scripts/quickstart/make_task.py", "--output", str(task), "--seed", str(seed)]
    yield Stage("task", "6,000 problems, 4 traces each, graded; an untrained model", command, task)
    for folder, title in (
        (positives, "positives: a correct trace per problem"),
        (pairs, "pairs: one correct, one not"),
    ):
        script = f"data_preprocess/build_{folder.name}.py"
        command = [*python, script, "--input", str(task / "raw"), "--output", str(folder), "--seed", str(seed)]
        yield Stage(folder.name, title, command, folder, (task,))

    def train(name: str, title: str, recipe: str, start: Path, data: Path, overrides: str = "") -> Stage:
        command = [*python, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
        command += [f"scripts/{SCRIPTS[recipe.split('/')[0]]}.py", "--config", f"recipes/{recipe}/config.yaml"]
        command += ["--model_name_or_path", str(start), "--dataset_name", str(data)]
        command += ["--output_dir", str(out / name), "--seed", str(seed), *overrides.split()]
        model = task if start == task / "base" else start
        return Stage(name, title, command, out / name, (model, data))

    yield train("sft", "stage 1: SFT on the positives", "sft/quickstart", task / "base", positives)
    num_steps = math.ceil(read_manifest(pairs)["counts"]["rows"] / PAIRS_PER_STEP)
    same_compute = f"--max_steps {2 * num_steps}"  # batches of 32 traces: as many traces as REDI's, two a pair
    title = "control: more SFT on the positives, as many traces as REDI sees"
    yield train("sft_more", title, "sft/quickstart_more", out / "sft", positives, same_compute)
    yield train("redi", "stage 2: REDI on the pairs, alpha 0.8", "redi/quickstart", out / "sft", pairs)
    for name, recipe, overrides in FULL_ROWS if full else []:
        yield train(name, f"{recipe} {overrides}".strip(), recipe, out / "sft", pairs, overrides)

    yield from evaluation_stages(out, seed, ["base", "sft", "sft_more", "redi"], FULL_ROWS if full else [])


def evaluation_stages(out: Path, seed: int, models: list[str], extra: list[tuple[str, str, str]]) -> Iterator[Stage]:
    """Generation and grading per model, then the table and the pictures of all."""
    evaluate = [sys.executable, "scripts/evaluate.py"]
    models = models + [name for name, _, _ in extra]
    folders = [out / "evaluation" / name for name in models]
    for name, folder in zip(models, folders, strict=True):
        model = out / "task" / "base" if name == "base" else out / name
        command = [*evaluate, "generate", "--model", str(model), "--benchmark", str(out / "task" / "digits.jsonl")]
        command += ["--output", str(folder), *SAMPLING, "--prompt", "bare", "--seed", str(seed)]
        reads = (out / "task",) if name == "base" else (out / "task", model)
        yield Stage(f"generate_{name}", f"{name}: 4 samples for each of 500 unseen problems", command, folder, reads)
        command = [*evaluate, "grade", "--input", str(folder)]
        yield Stage(f"grade_{name}", f"{name}: grading", command, folder / "graded.jsonl", (folder,))
    inputs = [str(folder) for folder in folders]
    command = [
        *evaluate,
        "report",
        "--input",
        *inputs,
        "--baseline",
        "sft",
        "sft_more",
        "--output",
        str(out / "report"),
    ]
    yield Stage("report", "table and bars", command, out / "report", tuple(folders))
    runs = [str(out / name) for name in models if name not in ("base", "sft", "sft_more", "dpo")]
    dynamics = out / "training_dynamics.png"
    command = [sys.executable, "scripts/plot_training.py", *runs, "--output", str(dynamics)]
    yield Stage("dynamics", "training dynamics", command, dynamics, tuple(map(Path, runs)))
    corpus = out / "task" / "raw" / "train-00000-of-00001.parquet"
    command = [sys.executable, "scripts/quickstart/show_habit.py", "--corpus", str(corpus), "--input", *inputs]
    command += ["--output", str(out / "habit.md")]
    yield Stage("habit", "how often each model skips", command, out / "habit.md", tuple(folders))


def run_stage(stage: Stage, number: int, out: Path, done: dict[str, Any]) -> None:
    """Runs one stage unless it is finished, and notes it in `stages.json`."""
    key, before = stage.key(), done.get(stage.name, {})
    shown = [part for part in stage.command if part != sys.executable]
    print(f"[{number:2}] {stage.title} -> {stage.output}", flush=True)
    if before.get("key") == key and before.get("finished") and stage.output.exists():
        print(f"     finished before, in {before['seconds']} s", flush=True)
        return
    if before.get("key") != key and stage.output.is_dir():
        shutil.rmtree(stage.output)  # made by another command, or from other inputs
    done[stage.name] = {"key": key, "finished": False}
    write_text(out / "stages.json", json.dumps(done, indent=1))
    print(f"     $ {shlex.join(shown).replace('-m accelerate.commands.launch', 'accelerate launch')}", flush=True)
    start = time.time()
    run_command(stage.command, out / "logs" / f"{stage.name}.log")
    done[stage.name] = {"key": key, "finished": True, "seconds": round(time.time() - start)}
    write_text(out / "stages.json", json.dumps(done, indent=1))
    print(f"     done in {done[stage.name]['seconds']} s", flush=True)


def run_command(command: list[str], log: Path) -> None:
    """Runs a command with its output in `log`, showing its latest progress bar in place."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # the model is so small that a second thread gains nothing
        "TOKENIZERS_PARALLELISM": "false",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        tail = b""
        while chunk := process.stdout.read1():
            stream.write(chunk)
            stream.flush()
            tail = (tail + chunk)[-1000:]
            bars = [line for line in tail.replace(b"\n", b"\r").split(b"\r") if b"%|" in line]
            if bars and sys.stdout.isatty():
                width = shutil.get_terminal_size().columns - 6
                print(f"\r\033[K     {bars[-1].decode(errors='ignore').strip()[:width]}", end="", flush=True)
        if sys.stdout.isatty():
            print("\r\033[K", end="")
    if process.wait() != 0:
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
        print(f"error: this stage failed; its whole output is in {log}", file=sys.stderr)
        raise SystemExit(process.returncode)


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(prog="bash scripts/quickstart.sh", description="The whole method on the CPU, in minutes.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the task, the training and the sampling")
    parser.add_argument("--full", action="store_true", help="also the rows for alpha, the collapse, DPO and SimPO")
    parser.add_argument("--output", type=Path, help="folder; runs/quickstart, or runs/quickstart-seedN for N > 0")
    options = parser.parse_args(argv)
    name = "quickstart" if options.seed == 0 else f"quickstart-seed{options.seed}"
    out = (options.output or Path("runs") / name).absolute()
    out = out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out
    os.chdir(REPOSITORY)
    out.mkdir(parents=True, exist_ok=True)
    state = out / "stages.json"
    done = json.loads(state.read_text()) if state.is_file() else {}
    start = time.time()
    for number, stage in enumerate(stages(out, options.seed, options.full), 1):
        run_stage(stage, number, out, done)
    shutil.copy(out / "report" / "table.md", out / "table.md")
    shutil.copy(out / "report" / "pass_at_1.png", out / "pass_at_1.png")
    print(f"\n{(out / 'table.md').read_text()}\n{(out / 'habit.md').read_text()}")
    print(f"finished in {time.time() - start:.0f} s: {out}/table.md, pass_at_1.png, training_dynamics.png, habit.md")


if __name__ == "__main__":
    main()
