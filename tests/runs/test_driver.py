import pytest

from redi.runs.driver import check_driver
from redi.runs.errors import UsageError


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


def test_a_machine_without_a_gpu_needs_no_driver(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", code=9)
    check_driver("13.0")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    check_driver("13.0")
