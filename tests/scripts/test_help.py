"""--help of the shell scripts: it prints what the file says of itself, and does nothing else."""

import subprocess

import pytest
from helpers.paths import REPOSITORY


@pytest.mark.parametrize("script", ["setup", "setup_vllm", "test", "quickstart"])
def test_help_installs_nothing(tmp_path, script):
    source = (REPOSITORY / "scripts" / f"{script}.sh").read_text()
    copy = tmp_path / "scripts" / f"{script}.sh"
    copy.parent.mkdir()
    copy.write_text(source)
    (copy.parent / "quickstart").symlink_to(REPOSITORY / "scripts" / "quickstart")
    result = subprocess.run(["bash", str(copy), "--help"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert source.splitlines()[1].removeprefix("# ") in result.stdout.replace("# ", "")
    assert not (tmp_path / ".venv").exists()
