"""A full disk: one line and exit code 2, nothing that looks complete, and the same command resumes with room."""

import subprocess
from pathlib import Path

import datasets
import evaluate
import pytest
import train_redi
from helpers.commands import arguments, weights_of
from helpers.evaluation import write_benchmark

SAVES = ["--save_strategy", "steps", "--save_steps", "1", "--max_steps", "8"]


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of some kilobytes; a call with another number changes its size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + ",remount" * place.is_mount()
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True
        )
        if result.returncode:
            pytest.skip(f"cannot mount a small disk: {result.stderr}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def refused(capsys, main, argv: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("kilobytes", [4, 100, 700])  # no lock, no weights, no optimizer fits
def test_a_training_resumes_to_the_same_weights_once_there_is_room(
    small_disk, model_path, rows_file, tmp_path, capsys, kilobytes
):
    out = small_disk(kilobytes) / "out"
    argv = arguments(model_path, rows_file, out, *SAVES)
    assert "No space left on device" in refused(capsys, train_redi.main, argv)
    assert not (out / "manifest.json").exists() and not (out / ".lock").exists()
    small_disk(20_000)
    train_redi.main(argv)
    train_redi.main(arguments(model_path, rows_file, tmp_path / "straight", *SAVES))
    expected, actual = weights_of(tmp_path / "straight"), weights_of(out)
    assert all((expected[name] == actual[name]).all() for name in expected)


def test_the_cache_of_tokenised_rows(small_disk, model_path, rows_file, tmp_path, capsys, monkeypatch):
    cache = small_disk(4)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    argv = [*arguments(model_path, rows_file, tmp_path / "out"), "--tokenize_only", "true"]
    for kilobytes in (4, 16):  # the rows do not fit, then what they become does not
        small_disk(kilobytes)
        assert "No space left on device" in refused(capsys, train_redi.main, argv)
    small_disk(20_000)
    train_redi.main(argv)
    assert "16 of 16 rows tokenised" in capsys.readouterr().out


def test_the_answers_of_an_evaluation(small_disk, model_path, tmp_path, capsys):
    disk = small_disk(16)
    benchmark = write_benchmark(tmp_path / "small.jsonl", num_problems=20)
    argv = ["generate", "--model", model_path, "--benchmark", str(benchmark), "--output", str(disk / "answers")]
    argv += ["--backend", "transformers", "--n", "4", "--max-tokens", "8", "--prompt", "bare"]
    assert "No space left on device" in refused(capsys, evaluate.main, argv)
    small_disk(20_000)
    evaluate.main(argv)
    assert len((disk / "answers" / "generations.jsonl").read_text().splitlines()) == 80
    used = sum(path.stat().st_blocks // 2 for path in disk.rglob("*"))
    small_disk(used + 8)
    grade = ["grade", "--input", str(disk / "answers")]
    assert "No space left on device" in refused(capsys, evaluate.main, grade)
    small_disk(20_000)
    evaluate.main(grade)
    assert len((disk / "answers" / "graded.jsonl").read_text().splitlines()) == 80
