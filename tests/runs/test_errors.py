"""User errors: one line and exit code 2."""

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
