"""Which GPUs the engines of vLLM get."""

import os

import torch

from redi.runs.errors import UsageError


def visible_gpus() -> list[str]:
    """The visible GPUs, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


def num_engines(num_gpus: int, tensor_parallel_size: int) -> int:
    """How many engines of `tensor_parallel_size` GPUs use all visible ones; 1 if there are too few, or none."""
    return max(1, num_gpus // tensor_parallel_size)


def gpu_groups(devices: list[str], data_parallel_size: int, tensor_parallel_size: int) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each data-parallel engine; empty strings if there are no GPUs.

    Raises:
        UsageError: there are GPUs, but fewer than needed.
    """
    wanted = data_parallel_size * tensor_parallel_size
    if 0 < len(devices) < wanted:
        raise UsageError(
            f"--data-parallel-size {data_parallel_size} x --tensor-parallel-size {tensor_parallel_size} needs "
            f"{wanted} GPUs, and {len(devices)} are visible"
        )
    return [
        ",".join(devices[first : first + tensor_parallel_size]) for first in range(0, wanted, tensor_parallel_size)
    ]
