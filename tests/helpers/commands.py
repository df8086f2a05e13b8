"""What tests of training share: options for the CPU, what a run leaves, and a run in another process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
import yaml
from transformers import AutoModelForCausalLM

from helpers.paths import REPOSITORY

CPU = ["--use_cpu", "true", "--bf16", "false", "--gradient_checkpointing", "false", "--disable_tqdm", "true"]
STEPS = ["--max_steps", "2", "--logging_steps", "1", "--save_strategy", "no", "--learning_rate", "1e-3"]


def arguments(model_path: str, rows_file: str, folder: Path, *extra: str) -> list[str]:
    """Options of two steps of training on the CPU."""
    paths = ["--model_name_or_path", model_path, "--dataset_name", rows_file, "--output_dir", str(folder)]
    return [*paths, *CPU, *STEPS, *extra]


def log_of(folder: Path) -> list[dict]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def weights_of(folder: Path | str) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}  # tied ones once


@contextmanager
def started(
    launcher: list[str], arguments: list[str], folder: Path, stage: str = "redi"
) -> Iterator[subprocess.Popen]:
    """A stage's script in another process, with its output in `folder/log.txt`; killed on leaving."""
    process = subprocess.Popen(
        [sys.executable, *launcher, str(REPOSITORY / f"scripts/train_{stage}.py"), *arguments],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=(folder / "log.txt").open("w"),
        stderr=subprocess.STDOUT,
    )
    children = []
    try:
        yield process
        process.wait(timeout=600)  # the first DeepSpeed run on a machine compiles an operator
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        for child in children:
            child.kill()


def launcher(kind: str, folder: Path) -> list[str]:
    """accelerate launches several CPU processes through MPI only. torchrun does what it does for GPUs."""
    if kind in ("ddp", "fsdp2"):
        command = ["torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        return command + [str(REPOSITORY / "tests/helpers/fsdp2_on_cpu.py")] * (kind == "fsdp2")
    shipped = yaml.safe_load((REPOSITORY / f"configs/accelerate/{kind}.yaml").read_text())
    shipped.update(use_cpu=True, num_processes=2, mixed_precision="no")
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(shipped))
    return ["accelerate.commands.launch", "--main_process_port", "0", "--config_file", str(folder / "accelerate.yaml")]
