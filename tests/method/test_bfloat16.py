"""Gradients in bfloat16 of two ranks under DDP, ZeRO and FSDP2 against those of one process in float32."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import arguments
from helpers.paths import REPOSITORY

pytestmark = pytest.mark.slow


def gradients(stage: str, kind: str, folder: Path, inputs: tuple[str, str], bf16: bool) -> dict[str, torch.Tensor]:
    """Of a step on 8 rows with accumulation, gradient checkpointing and a tied head."""
    folder.mkdir()
    ranks = 1 if kind == "one process" else 2
    file = folder / "gradients.pt"
    options = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", str(4 // ranks)]
    argv = [stage, str(file), *arguments(*inputs, folder / "out", *options, "--bf16", str(bf16).lower())]
    script = str(REPOSITORY / "tests/helpers/gradients.py")
    if kind.startswith("zero"):
        settings = yaml.safe_load((REPOSITORY / f"configs/accelerate/{kind}.yaml").read_text())
        settings.update(use_cpu=True, num_processes=2, mixed_precision="bf16" if bf16 else "no")
        (folder / "accelerate.yaml").write_text(yaml.safe_dump(settings))
        launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
        launcher += ["--config_file", str(folder / "accelerate.yaml")]
    else:
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"] * (ranks == 2)
        launcher += [str(REPOSITORY / "tests/helpers/fsdp2_on_cpu.py")] * (kind == "fsdp2")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, script, *argv]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(file)


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


@pytest.fixture(scope="module", params=["redi", "sft"])
def reference(request, model_path, rows_file, tmp_path_factory) -> tuple[str, torch.Tensor, torch.Tensor]:
    """The stage, and gradients of one process in float32 and in bfloat16."""
    folder = tmp_path_factory.mktemp(request.param)
    both = (
        gradients(request.param, "one process", folder / str(x), (model_path, rows_file), x) for x in (False, True)
    )
    return request.param, *map(flat, both)


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3", "fsdp2"])
def test_two_ranks_in_bfloat16(reference, kind, model_path, rows_file, tmp_path):
    stage, exact, rounded = reference
    found = flat(gradients(stage, kind, tmp_path / "two", (model_path, rows_file), bf16=True))
    residual = found - exact
    noise = (rounded - exact).norm()  # of bfloat16 in one process
    numbers = dict(
        relative=(residual.norm() / exact.norm()).item(),
        one_process=(noise / exact.norm()).item(),
        scale=(found @ exact / (exact @ exact)).item(),
        mean=(residual.mean() / residual.std() * len(residual) ** 0.5).item(),
    )
    print(stage, kind, numbers)
    assert 0 < numbers["relative"] < 0.05
    assert residual.norm() < 3 * noise, numbers
    assert numbers["scale"] == pytest.approx(1, abs=0.01)
    assert abs(numbers["mean"]) < 5, numbers
