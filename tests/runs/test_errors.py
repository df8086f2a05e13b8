"""User errors: one line and exit code 2."""

import subprocess
import sys

import pytest

from redi.runs.errors import UsageError, entry_point


def test_user_errors_are_one_line_and_exit_code_2(capsys):
    @entry_point
    def main(argv):
        raise UsageError("--n 0\nis too small")

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --n 0 is too small\n"


def test_what_checks_options_does_not_import_torch():
    modules = ["errors", "cli", "files", "manifest", "lock", "jsonl", "markdown", "recipe", "launch"]
    code = f"import sys, {', '.join(f'redi.runs.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
