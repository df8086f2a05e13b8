"""Output folders, manifests and errors, as every command uses them."""

import hashlib
import json

import pytest

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point
from redi.runs.files import fingerprint, new_folder
from redi.runs.manifest import is_finished, read_manifest, write_manifest


def test_new_folder_appears_only_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_failed_body_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_overwrite(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with (
        pytest.raises(UsageError, match="exists; choose another folder, or pass --overwrite"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "old").exists()
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_fingerprints_are_sha256_of_content(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    expected = hashlib.sha256(b"hello").hexdigest()
    assert fingerprint(tmp_path / "a.txt") == expected
    (tmp_path / "manifest.json").write_text("{}")  # left out: it holds times
    (tmp_path / "README.md").write_text("# Scores")  # left out: scores are added to a model's card
    (tmp_path / "folder").mkdir()
    assert fingerprint(tmp_path) == hashlib.sha256(f"a.txt {expected}\n".encode()).hexdigest()
    assert fingerprint("open-r1/OpenR1-Math-Raw") == "hub:open-r1/OpenR1-Math-Raw"


def test_a_manifest_identifies_options_and_inputs(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("one")
    out.mkdir()
    assert not is_finished(out, {"seed": 1}, {"input": source})
    write_manifest(out, config={"seed": 1}, inputs={"input": source}, counts={"rows": 3}, seed=1)
    assert read_manifest(out)["counts"] == {"rows": 3}
    assert is_finished(out, {"seed": 1}, {"input": source})
    assert not is_finished(out, {"seed": 2}, {"input": source})
    source.write_text("two")
    assert not is_finished(out, {"seed": 1}, {"input": source})


def test_a_foreign_manifest_is_not_taken_for_a_finished_run(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "something else"}))
    assert not is_finished(tmp_path, {}, {"input": tmp_path})


def test_user_errors_are_one_line_and_exit_code_2(capsys):
    @entry_point
    def main(argv):
        raise UsageError("--n 0\nis too small")

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --n 0 is too small\n"


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
