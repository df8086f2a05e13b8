"""Whether the NVIDIA driver of this machine can run the installed torch."""

import shutil
import subprocess

from redi.runs.errors import UsageError

OLDEST_DRIVERS = {12: 525, 13: 580}  # by CUDA's major version, from NVIDIA's table of minor version compatibility


def check_driver(cuda: str | None) -> None:
    """Refuses a torch that would not see this machine's GPUs. Does nothing where `nvidia-smi` finds no GPU.

    Args:
        cuda: `torch.version.cuda`: None for a build for the CPU.

    Raises:
        UsageError: torch is built for the CPU, or for a newer CUDA than the driver supports.
    """
    if shutil.which("nvidia-smi") is None:
        return
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True)
    driver = next(iter(result.stdout.split()), "")
    if result.returncode or not driver:
        return
    remedy = "see 'GPU drivers' in docs/clusters.md"
    if cuda is None:
        raise UsageError(
            f"torch is built for the CPU, but this machine has an NVIDIA GPU: install a CUDA build, {remedy}, or set "
            "use_cpu: true"
        )
    oldest = OLDEST_DRIVERS.get(int(cuda.split(".")[0]), 0)
    if int(driver.split(".")[0]) < oldest:
        raise UsageError(
            f"torch is built for CUDA {cuda} and needs an NVIDIA driver of at least {oldest}, but this machine has "
            f"{driver}: update it, or install a build for CUDA 12, {remedy}"
        )
