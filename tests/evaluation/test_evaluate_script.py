"""scripts/evaluate.sh as a user runs it, and what it refuses before anything is loaded."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers.evaluation import REPOSITORY, build_model, write_benchmark

from redi.evaluation.reporting.training_dynamics import evaluated_panels
from redi.runs.files import write_text

SCRIPT = str(REPOSITORY / "scripts" / "evaluate.sh")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "WATCH_SECONDS": "1"}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment, cwd=cwd)


@pytest.mark.slow
def test_watching_a_run_evaluates_what_is_complete_until_it_is_finished(tmp_path):
    folder = tmp_path / "a run"
    for step in (2, 10):  # as text, 10 comes first
        build_model(folder / f"checkpoint-{step}", seed=step)
    (folder / "checkpoint-2" / "trainer_state.json").write_text("{}")
    (folder / "checkpoint-10" / "trainer_state.json").write_text('{"log_his')  # still being written
    first = tmp_path / "evaluation" / "a run_checkpoint-2"
    second = tmp_path / "evaluation" / "a run_checkpoint-10"
    seen = []

    def finish_training():
        deadline = time.monotonic() + 120
        while not (first / "graded.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.2)
        seen.append(second.exists())
        (folder / "checkpoint-10" / "trainer_state.json").write_text("{}")
        write_text(folder / "manifest.json", "{}")

    thread = threading.Thread(target=finish_training)
    thread.start()
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    sampling = ["--backend", "transformers", "--n", "2", "--max-tokens", "4", "--prompt", "bare"]
    result = run("a run", "--watch", "--benchmark", str(benchmark), *sampling, cwd=tmp_path)
    thread.join()
    assert result.returncode == 0, result.stderr
    assert seen == [False]
    table = json.loads((tmp_path / "report" / "a run" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["a run_checkpoint-2", "a run_checkpoint-10"]
    points = evaluated_panels({"a run": folder}, "small")["small pass@1 (%)"]["a run"]
    assert [step for step, _ in points] == [2, 10]


@pytest.mark.parametrize(
    ("model", "arguments", "folder"),
    [
        ("a run", [], "evaluation/a run"),
        ("a run", ["--protocol", "paper_final"], "evaluation/a run"),
        ("a run", ["--benchmark", "x.jsonl"], "evaluation/a run"),
        ("a run", ["--protocol", "paper_intermediate"], "evaluation/a run_paper_intermediate"),
        ("a run", ["--protocol=my/own.yaml"], "evaluation/a run_own"),
        ("a run", ["--protocol", "quick", "--protocol", "paper_final"], "evaluation/a run"),  # the last one counts
        ("a run/checkpoint-5", [], "evaluation/a run_checkpoint-5"),
        ("a run/checkpoint-5", ["--protocol", "paper_intermediate"], "evaluation/a run_checkpoint-5"),
        ("a run/checkpoint-5", ["--protocol", "paper_final"], "evaluation/a run_checkpoint-5_paper_final"),
    ],
)
def test_another_protocol_than_the_usual_is_part_of_the_folders_name(tmp_path, model, arguments, folder):
    (tmp_path / model).mkdir(parents=True)
    result = run(model, "--where", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / folder}\n"), result.stderr


@pytest.mark.slow
def test_a_model_has_the_scores_of_two_protocols_and_its_card_those_of_the_usual(tmp_path):
    model = build_model(tmp_path / "run")
    (model / "README.md").write_text("# A model\n\n## Scores\n\nNone yet.\n")
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    own = tmp_path / "own.yaml"
    own.write_text("n: 3\nmax_tokens: 4\nprompt: bare\n")
    options = ["--benchmark", str(benchmark), "--backend", "transformers"]
    for arguments in (["--n", "2", "--max-tokens", "6", "--prompt", "bare"], ["--protocol", str(own)]):
        result = run("run", *options, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    for name, num_samples in (("run", 2), ("run_own", 3)):
        assert len((tmp_path / "evaluation" / name / "graded.jsonl").read_text().splitlines()) == 5 * num_samples
    scores = (tmp_path / "report" / "run" / "table.md").read_text()
    assert scores != (tmp_path / "report" / "run_own" / "table.md").read_text()
    assert scores.strip() in (model / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the first argument is the model"),
        (["--n", "4"], "the first argument is the model"),
        (["model", "--output", "x"], "--output is set by this script"),
        (["model", "--watch", "--where"], "--where is of one model"),
        (["model", "--every-checkpoint"], "model is no folder of a run"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_run_without_a_complete_checkpoint_is_refused(tmp_path):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    result = run("run", "--every-checkpoint", cwd=tmp_path)
    assert result.returncode == 2 and "has no complete checkpoint" in result.stderr
