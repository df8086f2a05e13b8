"""The options of `accelerate launch`, without launching anything."""

from pathlib import Path

import pytest

from redi.runs.errors import UsageError
from redi.runs.launch import accelerate_file, check_driver, gpu_memory, launch_options

MACHINES = {"MACHINE_RANK": "1", "MAIN_PROCESS_IP": "10.0.0.1", "MAIN_PROCESS_PORT": "29500"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("ACCELERATE_CONFIG", "NUM_PROCESSES", "NUM_MACHINES", *MACHINES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    return monkeypatch.setenv


def options_of(name: str, num_gpus: int) -> tuple[str, list[str]]:
    """The name of the configuration, and the options after it."""
    option, path, *rest = launch_options(name, num_gpus)
    assert option == "--config_file" and Path(path).is_file()
    return Path(path).stem, rest


def test_there_is_one_process_for_each_gpu():
    assert options_of("zero2", 8) == ("zero2", ["--num_processes", "8", "--main_process_port", "0"])
    assert options_of("zero2", 1) == ("zero2", ["--num_processes", "1"])
    assert options_of("ddp", 1) == ("single_gpu", ["--num_processes", "1"])
    assert options_of("zero3", 0) == ("cpu", [])


def test_processes_on_the_cpu_share_its_cores(environment, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("redi.runs.launch.cpus", lambda: 8)
    assert options_of("cpu", 0)[1] == ["--num_cpu_threads_per_process", "8"]
    environment("NUM_PROCESSES", "3")
    assert options_of("cpu", 0)[1][-2:] == ["--num_cpu_threads_per_process", "2"]
    assert "--num_cpu_threads_per_process" not in options_of("zero2", 8)[1]


def test_the_environment_sets_processes_and_configuration(environment, tmp_path):
    environment("NUM_PROCESSES", "2")
    assert options_of("ddp", 8)[1][:2] == ["--num_processes", "2"]
    assert options_of("ddp", 0) == ("cpu", ["--num_processes", "2", "--main_process_port", "0"])
    own = tmp_path / "own.yaml"
    own.write_text("")
    assert accelerate_file(str(own), 8) == own
    environment("ACCELERATE_CONFIG", str(own))
    assert options_of("ddp", 8)[0] == options_of("zero2", 0)[0] == "own"
    environment("ACCELERATE_CONFIG", "none.yaml")
    with pytest.raises(UsageError, match="ACCELERATE_CONFIG=none.yaml is not a file"):
        accelerate_file("ddp", 8)


def test_several_machines_need_their_variables(environment):
    environment("NUM_MACHINES", "4")
    environment("MACHINE_RANK", "1")
    with pytest.raises(UsageError, match="NUM_MACHINES=4 needs MAIN_PROCESS_IP as well"):
        launch_options("zero2", 8)
    for name, value in MACHINES.items():
        environment(name, value)
    name, options = options_of("ddp", 1)  # one process on each of four machines
    assert name == "ddp"
    assert options == [
        *["--num_processes", "4", "--num_machines", "4", "--machine_rank", "1"],
        *["--main_process_ip", "10.0.0.1", "--main_process_port", "29500"],
    ]


def test_an_unknown_configuration_names_the_known_ones():
    with pytest.raises(UsageError, match="accelerate_config=zero9 does not exist; use one of cpu, ddp, fsdp2"):
        accelerate_file("zero9", 8)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a stand-in for nvidia-smi first in PATH."""

    def install(output, code=0):
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\nprintf '{output}'\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


@pytest.mark.parametrize(
    ("driver", "cuda", "works"),
    [
        ("535.183.01", "13.0", False),
        ("550.54.15", "13.0", False),
        ("575.57.08", "13.0", False),
        ("580.65.06", "13.0", True),
        ("535.183.01", "12.6", True),
        ("550.54.15", "12.9", True),
        ("470.82.01", "12.6", False),
        ("580.65.06", None, False),
    ],
)
def test_the_driver_must_support_the_cuda_of_torch(driver, cuda, works, nvidia_smi):
    nvidia_smi(f"{driver}\\n{driver}\\n")
    if works:
        check_driver(cuda)
        return
    with pytest.raises(UsageError, match="docs/clusters.md") as error:
        check_driver(cuda)
    assert cuda is None or driver in str(error.value)


def test_a_gpu_without_a_memory_size_is_left_out(nvidia_smi, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvidia_smi("81920\\n[N/A]\\n")  # CPU and GPU share their memory
    assert gpu_memory() == [80.0]


def test_a_machine_without_a_gpu_needs_no_driver(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", code=9)
    check_driver("13.0")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    check_driver("13.0")
