"""evaluate.py: generate, grade and report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.evaluation import REPOSITORY, build_model, main, write_benchmark

AMC23 = REPOSITORY.parent / "shared" / "benchmarks" / "amc23.jsonl"


@pytest.fixture
def generate(tmp_path) -> list[str]:
    """A command for a tiny model, to which options are added."""
    return ["generate", "--model", str(build_model(tmp_path / "model")), "--backend", "transformers", "--n", "2"]


def test_from_model_to_table(generate, tmp_path, capsys):
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    for name, seed in (("sft", "1"), ("redi", "2")):
        sampling = ["--max-tokens", "8", "--seed", seed, "--output", str(tmp_path / name)]
        main([*generate, "--benchmark", str(benchmark), *sampling])
        _answer_correctly(tmp_path / name / "generations.jsonl", sample_idx=0)
        main(["grade", "--input", str(tmp_path / name)])
    graded = [json.loads(line) for line in (tmp_path / "redi" / "graded.jsonl").open()]
    assert {(row["sample_idx"], row["correct"], row["status"]) for row in graded} == {
        (0, True, "ok"),
        (1, False, "no_think_end"),
    }
    assert all(row["gold"] == row["id"][1:] for row in graded)
    manifest = json.loads((tmp_path / "redi" / "manifest.json").read_text())
    assert manifest["grading"]["counts"]["small"]["correct"] == 5
    assert manifest["counts"]["samples"] == 10
    inputs = [str(tmp_path / name) for name in ("sft", "redi")]
    (tmp_path / "README.md").write_text("# model\n\n## Scores\n\nNot evaluated yet.\n\n## Versions\n")
    card = ["--model-card", str(tmp_path)]
    main(["report", "--input", *inputs, "--output", str(tmp_path / "table"), "--baseline", "sft", *card])
    assert (tmp_path / "table" / "table.md").read_text().strip() in (tmp_path / "README.md").read_text()
    assert "| redi      |" in capsys.readouterr().out
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    # P = 1, 0: mean .5, SEM .5 / sqrt(2)
    assert table["rows"][1]["average"] == pytest.approx({"pass_at_1": 0.5, "sem": 0.353553}, abs=1e-6)


def test_answers_changed_after_grading_are_not_reported(tmp_path, capsys):
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    folder = generations(tmp_path / "out", {"benchmark": "small", "id": "p1"})
    main(["grade", "--input", str(folder), "--benchmark", str(benchmark)])
    with (folder / "generations.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(SystemExit):
        main(["report", "--input", str(folder), "--output", str(tmp_path / "table")])
    assert "changed after it was graded" in capsys.readouterr().err


def _answer_correctly(path: Path, sample_idx: int) -> None:
    rows = [json.loads(line) for line in path.open()]
    for row in rows:
        if row["sample_idx"] == sample_idx:
            row["response"] = f"I count. </think> \\boxed{{{row['id'][1:]}}}"
        else:
            row["response"] = "I count."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def generations(folder: Path, *rows: dict) -> Path:
    folder.mkdir()
    whole = {
        "sample_idx": 0,
        "prompt": "",
        "response": "</think> \\boxed{5}",
        "finish_reason": "stop",
        "num_tokens": 3,
    }
    (folder / "generations.jsonl").write_text("".join(json.dumps(whole | row) + "\n" for row in rows))
    return folder


def test_reference_answers_may_come_from_a_file(tmp_path):
    benchmark = write_benchmark(tmp_path / "small.jsonl", 6)
    folder = generations(tmp_path / "out", {"benchmark": "small", "id": "p5"}, {"benchmark": "small", "id": "p4"})
    main(["grade", "--input", str(folder), "--benchmark", str(benchmark)])
    assert [json.loads(line)["correct"] for line in (folder / "graded.jsonl").open()] == [True, False]


def test_second_reference_answers_are_separate_rows(tmp_path, capsys):
    rows = [{"id": f"minerva/{i}", "problem": "?", "answer": str(i)} for i in range(272)]
    (tmp_path / "minerva.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows[7]["answer"] = "5"
    (tmp_path / "minerva_sourcebox.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"benchmark": "minerva", "id": f"minerva/{i}"} for i in (5, 7)]
    folder = generations(tmp_path / "out", *asked, {"benchmark": "other", "id": "p5"})
    options = ["--input", str(folder), "--benchmark-folder", str(tmp_path), "--second-golds", "minerva_sourcebox"]
    other = write_benchmark(tmp_path / "other.jsonl", 6)
    main(["grade", *options, "--benchmark", str(tmp_path / "minerva.jsonl"), str(other)])
    graded = [json.loads(line) for line in (folder / "graded.jsonl").open()]
    assert [(row["benchmark"], row["id"], row["correct"]) for row in graded] == [
        ("minerva", "minerva/5", True),
        ("minerva", "minerva/7", False),
        ("other", "p5", True),
        ("minerva_sourcebox", "minerva/5", True),
        ("minerva_sourcebox", "minerva/7", True),
    ]
    folder = generations(tmp_path / "none", {"benchmark": "other", "id": "p5"})
    with pytest.raises(SystemExit):
        main(["grade", "--input", str(folder), "--benchmark", str(other), *options[2:]])
    assert "has no answers to minerva" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"benchmark": "small", "id": "p9"}], "no reference answer for small 'p9'"),
        ([{"benchmark": "small", "id": "p1"}] * 2, "sample 0 of small 'p1' occurs twice"),
        ([{"id": "p1"}], "line 1: no 'benchmark'"),
        ([], "has no rows"),
    ],
)
def test_what_cannot_be_graded_is_one_line(tmp_path, capsys, rows, message):
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    folder = generations(tmp_path / "out", *rows)
    with pytest.raises(SystemExit) as stop:
        main(["grade", "--input", str(folder), "--benchmark", str(benchmark)])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.count("\n") == 1


def test_malformed_generations_name_the_line(tmp_path, capsys):
    folder = generations(tmp_path / "out", {"benchmark": "small", "id": "p1"})
    with (folder / "generations.jsonl").open("a") as stream:
        stream.write('{"benchmark": "sm')
    with pytest.raises(SystemExit):
        main(["grade", "--input", str(folder)])
    assert "generations.jsonl, line 2: not valid JSON" in capsys.readouterr().err


def test_a_benchmark_nobody_knows_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["grade", "--input", str(generations(tmp_path / "out", {"benchmark": "mine", "id": "p1"}))])
    assert "mine is neither a .jsonl file nor a known name" in capsys.readouterr().err


@pytest.mark.skipif(not AMC23.is_file(), reason="shared/benchmarks is missing")
def test_a_real_benchmark_through_the_real_command(generate, tmp_path):
    output = str(tmp_path / "out")
    main([*generate, "--benchmark", str(AMC23), "--output", output, "--max-tokens", "32", "--prompt", "bare"])
    command = [sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), "grade", "--input", output]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "amc23" in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "out" / "graded.jsonl").open()]
    assert len(rows) == 2 * 83
    assert all(row["gold"] and row["status"] != "error" for row in rows)


@pytest.mark.parametrize("command", ["evaluate", "reproduce", "plot_training"])
def test_help_needs_neither_torch_nor_vllm(tmp_path, command):
    """Packages that cannot be imported stand in for missing ones; `--help` of every command, in one process."""
    for name in ("torch", "vllm", "openai", "transformers", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is missing')")
    commands = {"evaluate": ["run", "download", "generate", "grade", "report"]}
    commands["reproduce"] = ["table1", "training-dynamics"]
    script = (
        "import runpy, sys\n"
        "main = runpy.run_path(sys.argv[1])['main']\n"
        "for name in ['', *sys.argv[2:]]:\n"
        "    try:\n        main([*name.split(), '--help'])\n"
        "    except SystemExit as end:\n        assert not end.code, end.code\n"
    )
    arguments = [str(REPOSITORY / "scripts" / f"{command}.py"), *commands.get(command, [])]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("usage: ") == len(arguments), done.stderr
