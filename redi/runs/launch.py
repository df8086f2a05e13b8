"""Launching a run on this machine: the options of `accelerate launch`, and whether the NVIDIA driver fits torch."""

import os
import shutil
import subprocess
from pathlib import Path

from redi.runs.errors import UsageError
from redi.runs.files import CONFIGS, cpus
from redi.runs.recipe import read_config

OLDEST_DRIVERS = {12: 525, 13: 580}  # by CUDA's major version, from NVIDIA's table of minor version compatibility


def accelerate_file(name: str, num_processes: int) -> Path:
    """The accelerate configuration of a run; the environment variable ACCELERATE_CONFIG, a file, overrides it.

    Args:
        name: of a file in `configs/accelerate` without `.yaml`, or a path ending in `.yaml`.
        num_processes: of the run. Without any GPU (0) it is `cpu`, and `ddp` of one process is `single_gpu`.

    Raises:
        UsageError: there is no such file, or it is not valid YAML.
    """
    folder = CONFIGS / "accelerate"
    if num_processes == 0:
        name = "cpu"
    elif num_processes == 1 and name == "ddp":
        name = "single_gpu"  # the others keep float32 weights next to the bfloat16 ones, on one GPU too
    if override := os.environ.get("ACCELERATE_CONFIG"):
        if not Path(override).is_file():
            raise UsageError(f"ACCELERATE_CONFIG={override} is not a file; name a YAML file of accelerate")
        read_config(Path(override), "ACCELERATE_CONFIG")
        return Path(override)
    path = Path(name if name.endswith(".yaml") else folder / f"{name}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UsageError(f"accelerate_config={name} does not exist; use one of {known}, or the path of a YAML file")
    read_config(path, "accelerate_config")
    return path


def num_processes(num_gpus: int) -> int:
    """Processes of a run over all machines, by the environment; 0 on the CPU unless it says otherwise."""
    return int(os.environ.get("NUM_MACHINES") or 1) * int(os.environ.get("NUM_PROCESSES") or num_gpus)


def launch_options(name: str, num_gpus: int) -> list[str]:
    """The options of `accelerate launch` on this machine, which has `num_gpus` GPUs, 0 on the CPU.

    From the environment come NUM_PROCESSES, on this machine (by default one per GPU), and, with NUM_MACHINES above 1,
    MACHINE_RANK, MAIN_PROCESS_IP and MAIN_PROCESS_PORT.

    Raises:
        UsageError: as `accelerate_file`, or the environment lacks a variable.
    """
    machines, total = int(os.environ.get("NUM_MACHINES") or 1), num_processes(num_gpus)
    options = ["--config_file", str(accelerate_file(name, total if num_gpus else 0))]
    if total:
        options += ["--num_processes", str(total)]
    if machines > 1:
        options += ["--num_machines", str(machines)]
        for variable in ("MACHINE_RANK", "MAIN_PROCESS_IP", "MAIN_PROCESS_PORT"):
            if not os.environ.get(variable):
                raise UsageError(f"NUM_MACHINES={machines} needs {variable} as well; see the top of launch.sh")
            options += [f"--{variable.lower()}", os.environ[variable]]
    elif total > 1:
        options += ["--main_process_port", "0"]  # any free port: another run may be on this machine
    if num_gpus == 0 and not os.environ.get("OMP_NUM_THREADS"):  # accelerate counts cores that this job may not use
        options += ["--num_cpu_threads_per_process", str(max(1, cpus() * machines // max(1, total)))]
    return options


def gpu_memory() -> list[float]:
    """GiB of each GPU that CUDA_VISIBLE_DEVICES leaves; a process that computes nothing need not open them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip(" -1"):
        return []
    sizes = _query_gpus("memory.total", *([f"--id={visible}"] if visible else []))
    return [int(mib) / 1024 for mib in sizes if mib.isdecimal()]  # [N/A] where CPU and GPU share their memory


def _query_gpus(field: str, *options: str) -> list[str]:
    """What `nvidia-smi` says of each GPU; nothing where it finds none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", *options]
    result = subprocess.run(query, capture_output=True, text=True)
    return [] if result.returncode else result.stdout.split()


def check_driver(cuda: str | None) -> None:
    """Refuses a torch that would not see this machine's GPUs. Does nothing where `nvidia-smi` finds no GPU.

    Args:
        cuda: `torch.version.cuda`: None for a build for the CPU.

    Raises:
        UsageError: torch is built for the CPU, or for a newer CUDA than the driver supports.
    """
    driver = next(iter(_query_gpus("driver_version")), "")
    if not driver:
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
