"""Strict command-line options."""

import pytest

from redi.runs.cli import StrictParser, positive_float, positive_int
from redi.runs.errors import UsageError


def test_the_parser_suggests_the_nearest_option_and_takes_no_prefixes():
    parser = StrictParser()
    parser.add_argument("--output")
    with pytest.raises(UsageError, match="unknown option '--outptu'; did you mean '--output'?"):
        parser.parse_args(["--outptu", "x"])
    with pytest.raises(UsageError, match="unknown option '--out'"):
        parser.parse_args(["--out", "x"])


def test_a_mistyped_option_of_a_subcommand_is_named_before_the_required_one_that_is_missing():
    parser = StrictParser()
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    commands.add_parser("make").add_argument("--model", required=True)
    with pytest.raises(UsageError, match="unknown option '--modle'; did you mean '--model'?"):
        parser.parse_args(["make", "--modle=x"])


def test_numbers_must_be_above_0():
    parser = StrictParser()
    parser.add_argument("--n", type=positive_int)
    parser.add_argument("--x", type=positive_float)
    assert vars(parser.parse_args(["--n", "3", "--x", "0.5"])) == {"n": 3, "x": 0.5}
    for argv in (["--n", "0"], ["--n", "1.5"], ["--x", "0"], ["--x", "nan"], ["--x", "many"]):
        with pytest.raises(UsageError, match=f"'{argv[1]}' is not a (whole )?number above 0"):
            parser.parse_args(argv)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_no_option_takes_a_number_that_is_not_finite(value):
    parser = StrictParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--rates", type=float, nargs="+")
    for arguments in ([f"--rate={value}"], ["--rates", "1", *([value] if value != "-inf" else ["1", "nan"])]):
        with pytest.raises(UsageError, match="argument --rates?: .* is not a finite number"):
            parser.parse_args(arguments)
