"""evaluate.py run: which models, where their answers go, and from there to the report and the model card."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from helpers.evaluation import REPOSITORY, main, refusal, rows_of, write_benchmark

from redi.evaluation.benchmarks import load_benchmarks
from redi.evaluation.generation import transformers_backend
from redi.evaluation.generation.generate import generate_in_child
from redi.evaluation.generation.options import SamplingOptions
from redi.evaluation.options import parse
from redi.evaluation.reporting.training_dynamics import evaluated_panels
from redi.evaluation.run import find_models, usual_protocol
from redi.runs.checkpoints import complete_checkpoints
from redi.runs.errors import UsageError
from redi.runs.files import write_text
from redi.runs.lock import folder_lock

SMALL = "n: 2\ntemperature: 0.6\ntop_p: 0.95\nmax_tokens: 4\nprompt: bare\n"


@pytest.fixture
def small_protocols(tmp_path, monkeypatch) -> None:
    """The usual protocols, with few and short answers to five problems; the second with fewer."""
    folder = tmp_path / "protocols"
    folder.mkdir()
    benchmark = write_benchmark(tmp_path / "small.jsonl")
    (folder / "paper_final.yaml").write_text(f"benchmark: [{benchmark}]\n{SMALL}")
    (folder / "paper_intermediate.yaml").write_text(f"benchmark: [{benchmark}]\n{SMALL}".replace("n: 2", "n: 1"))
    monkeypatch.setattr("redi.evaluation.generation.options.PROTOCOL_FOLDER", folder)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> None:
    main(["run", *arguments, "--backend", "transformers"])


def test_watching_a_run_evaluates_complete_checkpoints_until_it_is_finished(
    small_protocols, tiny_model, tmp_path, monkeypatch
):
    folder = tmp_path / "a run"
    for step in (2, 10):  # as text, 10 comes first
        shutil.copytree(tiny_model, folder / f"checkpoint-{step}")
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

    monkeypatch.setenv("WATCH_SECONDS", "0.2")
    thread = threading.Thread(target=finish_training)
    thread.start()
    run("a run", "--watch")
    thread.join()
    assert seen == [False]
    table = json.loads((tmp_path / "report" / "a run_checkpoints" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["a run_checkpoint-2", "a run_checkpoint-10"]
    assert table["protocol"]["protocol"] == "paper_intermediate"
    points = evaluated_panels({"a run": folder}, "small")["small pass@1 (%)"]["a run"]
    assert [step for step, _ in points] == [2, 10]


@pytest.mark.parametrize("still_trains", [True, False])
def test_watching_ends_with_a_training_that_stopped_before_its_end(
    small_protocols, tiny_model, tmp_path, monkeypatch, capsys, still_trains
):
    """The collapse guard, a crash and kill -9 leave no manifest; only a run that is alive holds its lock."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_model, folder / "checkpoint-2")
    (folder / "checkpoint-2" / "trainer_state.json").write_text("{}")
    (folder / "started.json").write_text("{}")
    monkeypatch.setenv("WATCH_SECONDS", "0.2")
    first = tmp_path / "evaluation" / "run_checkpoint-2"

    def train():
        with folder_lock(folder, inside=True):
            locked.set()
            deadline = time.monotonic() + 120
            while not (first / "graded.jsonl").is_file() and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(1)
            shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-4")

    locked, thread = threading.Event(), threading.Thread(target=train)
    if still_trains:
        thread.start()
        locked.wait()
    run("run", "--watch")
    assert not thread.is_alive()
    assert f"note: the training of {folder} stopped before its end" in capsys.readouterr().err
    names = [path.name for path in (tmp_path / "evaluation").iterdir()]
    assert sorted(names) == ["run_checkpoint-2", "run_checkpoint-4"][: 1 + still_trains]


@pytest.mark.parametrize(
    ("model", "arguments", "folder"),
    [
        ("a run", [], "evaluation/a run"),
        ("a run", ["--protocol", "paper_final"], "evaluation/a run"),
        ("a run", ["--benchmark", "x.jsonl", "--n", "1"], "evaluation/a run"),
        ("a run", ["--protocol", "paper_intermediate"], "evaluation/a run_paper_intermediate"),
        ("a run", ["--protocol=own.yaml"], "evaluation/a run_own"),
        ("a run", ["--protocol", "quick", "--protocol", "paper_final"], "evaluation/a run"),  # the last one counts
        ("a run", ["--temperature", "1"], "evaluation/a run_temperature-1.0"),
        ("a run", ["--protocol", "own.yaml", "--top-p", "1", "--n", "1"], "evaluation/a run_own_top-p-1.0"),
        ("a run", ["--temperature", "0.6", "--force-think"], "evaluation/a run"),  # as the protocol has them
        ("a run", ["--chat-template", "some/own.jinja"], "evaluation/a run_chat-template-own"),
        ("a run/checkpoint-5", [], "evaluation/a run_checkpoint-5"),
        ("a run/checkpoint-5", ["--protocol", "paper_intermediate"], "evaluation/a run_checkpoint-5"),
        ("a run/checkpoint-5", ["--protocol", "paper_final"], "evaluation/a run_checkpoint-5_paper_final"),
    ],
)
def test_what_changes_the_samples_is_part_of_the_folders_name(tmp_path, monkeypatch, capsys, model, arguments, folder):
    (tmp_path / model).mkdir(parents=True)
    (tmp_path / "own.yaml").write_text("n: 3\n")
    monkeypatch.chdir(tmp_path)
    main(["run", model, "--where", *arguments])
    assert capsys.readouterr().out == f"{tmp_path / folder}\n"


def test_answers_of_a_model_from_elsewhere_do_not_land_next_to_it(tmp_path, tiny_model, small_protocols, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    os.chdir(here)
    model = shutil.copytree(tiny_model, there / "model")
    run(str(model))
    assert [path.name for path in there.iterdir()] == ["model"]
    assert (here / "runs" / "evaluation" / "model" / "graded.jsonl").is_file()
    assert (here / "runs" / "report" / "model" / "table.md").is_file()
    capsys.readouterr()
    for arguments, folder in (
        (["--output", str(tmp_path / "x")], tmp_path / "x" / "evaluation" / "model"),
        (["--output", "x", "--temperature", "1"], "x/evaluation/model_temperature-1.0"),
        ([], "runs/evaluation/model"),
    ):
        main(["run", str(model), "--where", *arguments])
        assert capsys.readouterr().out == f"{folder}\n"
    (model / "manifest.json").write_text("{}")  # a run that was trained there
    main(["run", str(model), "--where"])
    assert capsys.readouterr().out == f"{there / 'evaluation' / 'model'}\n"
    checkpoint = shutil.copytree(tiny_model, model / "checkpoint-3")
    main(["run", str(checkpoint), "--where"])
    assert capsys.readouterr().out == f"{there / 'evaluation' / 'model_checkpoint-3'}\n"


def test_answers_of_a_hub_id_go_to_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["run", "owner/model", "--where"])
    assert capsys.readouterr().out == "runs/evaluation/owner_model\n"


def test_the_protocol_is_the_usual_one_unless_given(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-5").mkdir()
    monkeypatch.chdir(tmp_path)
    options = parse(["run", "owner/model", "--n", "2"], "")
    assert (options.protocol, options.n, options.max_tokens, len(options.benchmark)) == ("paper_final", 2, 30720, 5)
    assert parse(["run", "checkpoint-5"], "").protocol == "paper_intermediate"
    assert parse(["run", "owner/model", "--watch"], "").protocol == "paper_intermediate"
    assert parse(["run", "checkpoint-5", "--protocol", "quick"], "").max_tokens == 8192
    assert usual_protocol("x/checkpoint-5", False) == usual_protocol("x", True) == "paper_intermediate"


def test_a_quick_look_is_extended_by_the_protocols_run(small_protocols, tiny_model, tmp_path, capsys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "README.md").write_text("# A model\n\n## Scores\n\nNot evaluated yet.\n")
    other = write_benchmark(tmp_path / "other.jsonl", 2)
    run("model", "--benchmark", str(other), "--n", "1")
    folder = tmp_path / "evaluation" / "model"
    quick = rows_of(folder / "generations.jsonl")
    assert len(quick) == 2
    run("model")
    assert rows_of(folder / "generations.jsonl")[:2] == quick
    assert len(rows_of(folder / "graded.jsonl")) == 2 + 5 * 2
    assert json.loads((folder / "sampling.json").read_text())["protocol"] == "paper_final"
    before = (folder / "graded.jsonl").stat().st_mtime_ns
    run("model", "--benchmark", str(other), "--n", "1")  # which has been sampled
    assert (folder / "graded.jsonl").stat().st_mtime_ns == before
    table = json.loads((tmp_path / "report" / "model" / "table.json").read_text())
    assert {name: cell["n"] for name, cell in table["rows"][0]["benchmarks"].items()} == {"other": 1, "small": 2}

    # Other sampling parameters go to another folder, and not into the card, which has scores.
    card = (model / "README.md").read_text()
    assert (tmp_path / "report" / "model" / "table.md").read_text().strip() in card
    run("model", "--temperature", "1.0", "--n", "1")
    assert len(rows_of(tmp_path / "evaluation" / "model_temperature-1.0" / "graded.jsonl")) == 5
    assert (tmp_path / "report" / "model_temperature-1.0" / "table.md").is_file()
    assert (model / "README.md").read_text() == card


def test_a_look_at_the_first_problems_and_whole_responses(small_protocols, tiny_model, tmp_path, capsys):
    shutil.copytree(tiny_model, tmp_path / "model")
    folder = tmp_path / "evaluation" / "model"
    run("model", "--limit", "2")
    assert "--whole-responses" in capsys.readouterr().err  # a random model ends no thought
    first = rows_of(folder / "graded.jsonl")
    assert len(first) == 4
    run("model", "--limit", "2", "--whole-responses")
    assert {row["status"] for row in rows_of(folder / "graded.jsonl")} == {"no_answer"}
    text = (tmp_path / "report" / "model" / "table.md").read_text()
    assert "limit 2" in text and "Whole responses were graded" in text
    run("model")
    graded = rows_of(folder / "graded.jsonl")
    assert len(graded) == 10 and all(row in graded for row in first)
    assert "limit 2" not in (tmp_path / "report" / "model" / "table.md").read_text()
    before = (folder / "graded.jsonl").stat().st_mtime_ns
    run("model", "--limit", "2")
    assert (folder / "graded.jsonl").stat().st_mtime_ns == before


def test_shards_are_sampled_only_and_gathered_later(small_protocols, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    folder = tmp_path / "evaluation" / "model"
    for shard in ("1/2", "2/2"):
        run("model", "--shard", shard)
    assert sorted(path.name for path in folder.iterdir()) == ["shard-1-of-2", "shard-2-of-2"]
    assert not list(folder.glob("*/graded.jsonl")) and not (tmp_path / "report").exists()
    run("model")
    assert len(rows_of(folder / "graded.jsonl")) == 10


def test_minerva_is_graded_by_its_second_reference_answers_if_they_exist(small_protocols, tiny_model, tmp_path):
    rows = [{"id": f"minerva/{i}", "problem": "?", "answer": str(i)} for i in range(272)]
    (tmp_path / "golds").mkdir()
    for name in ("minerva", "minerva_sourcebox"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "golds" / f"{name}.jsonl").write_text(text)
    shutil.copytree(tiny_model, tmp_path / "model")
    run("model", "--benchmark", "minerva", "--benchmark-folder", "golds", "--n", "1")
    graded = rows_of(tmp_path / "evaluation" / "model" / "graded.jsonl")
    assert [row["benchmark"] for row in graded] == ["minerva"] * 272 + ["minerva_sourcebox"] * 272


def test_a_recipe_means_what_it_trained(tmp_path, monkeypatch):
    recipe = tmp_path / "recipes" / "redi" / "mine"
    recipe.mkdir(parents=True)
    (recipe / "config.yaml").write_text("output_dir: runs/mine  # a comment\n")
    monkeypatch.chdir(tmp_path)
    assert find_models(str(recipe)) == ["runs/mine"]  # not trained yet, which loading it reports
    for name in ("a", "b", "c"):
        (tmp_path / "runs" / "mine" / name).mkdir(parents=True)
    for name in ("a", "c"):
        (tmp_path / "runs" / "mine" / name / "manifest.json").write_text("{}")
    assert find_models(str(recipe)) == [str(tmp_path / "runs" / "mine" / name) for name in ("a", "c")]  # a sweep
    (tmp_path / "runs" / "mine" / "manifest.json").write_text("{}")
    assert find_models(str(recipe)) == [str(tmp_path / "runs" / "mine")]
    assert find_models(str(recipe), "runs/mine/b") == [str(tmp_path / "runs" / "mine" / "b")]
    with pytest.raises(UsageError, match="--output_dir x is for a recipe folder, and runs/mine has no config.yaml"):
        find_models("runs/mine", "x")
    (recipe / "config.yaml").write_text("alpha: 0.8\n")
    with pytest.raises(UsageError, match="sets no output_dir; pass --output_dir"):
        find_models(str(recipe))


def test_eval_sh_from_another_folder(tmp_path):
    """Through the real shell: its own protocol, which the command line overrides."""
    (tmp_path / "trained").mkdir()
    script = REPOSITORY / "recipes" / "redi" / "quickstart" / "eval.sh"
    options = ["--output_dir", str(tmp_path / "trained"), "--where", "--max-tokens", "9"]
    result = subprocess.run(["bash", str(script), *options], cwd=tmp_path, capture_output=True, text=True)
    expected = tmp_path / "evaluation" / "trained_quickstart_max-tokens-9"
    assert (result.returncode, result.stdout) == (0, f"{expected}\n"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODEL_OR_RECIPE"),
        (["--n", "4"], "the following arguments are required: MODEL_OR_RECIPE"),
        (["model", "--out", "x"], "unknown option '--out'; did you mean '--output'?"),
        (["model", "--watch", "--where"], "--where is for a model; remove --every-checkpoint or --watch"),
        (["model", "--every-checkpoint", "--benchmark", "small.jsonl"], "model is not the folder of a run"),
        (["model", "--benchmark", "small.jsonl"], "--model model is not a folder, and not a Hub id"),
        (["model", "--benchmark", "small.jsonl", "--shard", "3/2"], "--shard: 3/2 must be i/n"),
        (["model", "--protocol", "quik"], "did you mean 'quick'?"),
        (["model", "--protocol", "one.yaml"], "--benchmark or a --protocol that names benchmarks is required"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_benchmark(tmp_path / "small.jsonl")
    (tmp_path / "one.yaml").write_text("n: 1\n")
    error = refusal(["run", *arguments, "--backend", "transformers"], capsys)
    assert message in error and error.count("\n") == 1


def test_a_damaged_checkpoint_is_skipped_and_named(small_protocols, tiny_model, tmp_path, capsys):
    for step in (2, 4):
        folder = shutil.copytree(tiny_model, tmp_path / "run" / f"checkpoint-{step}")
        (folder / "trainer_state.json").write_text("{}")
    weights = tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    run("run", "--every-checkpoint")
    assert "note: skipped incomplete checkpoints: " in (error := capsys.readouterr().err) and "checkpoint-4" in error
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["run_checkpoint-2"]


@pytest.mark.parametrize("value", ["nan", "inf", "0", "soon"])
def test_a_bad_time_to_wait_is_one_line(small_protocols, tmp_path, monkeypatch, capsys, value):
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("WATCH_SECONDS", value)
    assert f"WATCH_SECONDS={value}: " in refusal(["run", "run", "--watch", "--backend", "transformers"], capsys)


def test_a_run_without_a_complete_checkpoint_is_refused(small_protocols, tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    assert complete_checkpoints(tmp_path / "run") == ([], [tmp_path / "run" / "checkpoint-5"])
    assert "has no complete checkpoint" in refusal(["run", "run", "--every-checkpoint"], capsys)


@pytest.fixture
def child_arguments(tiny_model, tmp_path) -> tuple:
    """Of a run that takes minutes."""
    options = SamplingOptions(400, max_tokens=400, prompt="bare", backend="transformers", batch_size=2)
    return (
        str(tiny_model),
        load_benchmarks([str(write_benchmark(tmp_path / "small.jsonl"))]),
        tmp_path / "out",
        options,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_child_that_samples_and_keeps_what_it_has(child_arguments, tmp_path, number):
    """As `run` samples with vLLM: the signal goes to the parent alone."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import pathlib, pickle\n"
        "from redi.evaluation.generation.generate import generate_in_child\n"
        "if __name__ == '__main__':\n"
        "    generate_in_child(*pickle.loads(pathlib.Path(__file__).with_suffix('.pickle').read_bytes()))\n"
    )
    script.with_suffix(".pickle").write_bytes(pickle.dumps(child_arguments))
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    generations, deadline = tmp_path / "out" / "generations.jsonl", time.monotonic() + 120
    while not (generations.is_file() and generations.stat().st_size):
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (child,) = [process for process in psutil.Process(parent.pid).children() if "spawn_main" in str(process.cmdline())]
    parent.send_signal(number)
    assert parent.wait(timeout=20) == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert not child.is_running() and rows_of(generations)


def test_a_refusal_in_the_child_is_one_line_and_exit_code_2(child_arguments, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        generate_in_child(str(tmp_path / "nothing"), *child_arguments[1:])
    assert stop.value.code == 2
    assert "is not a folder, and not a Hub id" in capfd.readouterr().err


def test_ctrl_c_keeps_the_finished_samples_and_the_same_command_draws_the_others(
    small_protocols, tiny_model, tmp_path, monkeypatch, capsys
):
    shutil.copytree(tiny_model, tmp_path / "run")
    sample = transformers_backend.sample

    def interrupted(*arguments):
        yield next(iter(sample(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers_backend, "sample", interrupted)
    with pytest.raises(SystemExit) as end:
        run("run", "--batch-size", "3")
    assert end.value.code == 130
    said, generations = capsys.readouterr().err, tmp_path / "evaluation" / "run" / "generations.jsonl"
    assert f"kept in {generations}; the same command draws the others\nstopped by Ctrl-C\n" in said
    kept = generations.read_text()
    assert len(rows_of(generations)) == 3
    monkeypatch.setattr(transformers_backend, "sample", sample)
    run("run", "--batch-size", "3")
    assert generations.read_text().startswith(kept) and len(rows_of(generations)) == 10
