"""How vLLM's engines share the visible GPUs."""

import pytest

from redi.evaluation.generation.gpus import gpu_groups, num_engines
from redi.runs.errors import UsageError


@pytest.mark.parametrize(
    ("num_gpus", "tensor_parallel_size", "engines"),
    [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1), (1, 1, 1), (0, 1, 1), (1, 2, 1)],
)
def test_engines_use_every_visible_gpu(num_gpus, tensor_parallel_size, engines):
    assert num_engines(num_gpus, tensor_parallel_size) == engines


def test_gpus_are_dealt_out_to_engines():
    assert gpu_groups(["0", "1", "2", "3"], 2, 2) == ["0,1", "2,3"]
    assert gpu_groups(["4", "6", "7"], 3, 1) == ["4", "6", "7"]
    assert gpu_groups([], 2, 1) == ["", ""]
    with pytest.raises(UsageError, match="--data-parallel-size 2 x --tensor-parallel-size 2 needs 4 GPUs, and 3 are"):
        gpu_groups(["0", "1", "2"], 2, 2)
