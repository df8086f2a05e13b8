"""new_recipe.py: recipes that pass preflight as they are written, for any place and machine; and what it refuses."""

import logging
import os
import subprocess
import warnings
from pathlib import Path

import new_recipe
import pytest
import yaml
from datasets import Dataset
from helpers.paths import REPOSITORY
from helpers.tiny import make_pairs

from redi.preflight import new_recipe as writer
from redi.preflight.check import preflight
from redi.preflight.recipe import Machine
from redi.runs.errors import UsageError


@pytest.fixture(autouse=True)
def quiet():
    """The command silences warnings and logging: undone after each test."""
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture()
def data(tmp_path) -> Path:
    """A folder with positives and pairs, 16 rows each."""
    for name in ("positives", "pairs"):
        (tmp_path / "data" / name).mkdir(parents=True)
    rows = make_pairs(16)
    positives = [{"messages": row["prompt"] + row["chosen"]} for row in rows]
    Dataset.from_list(positives).to_parquet(tmp_path / "data/positives/train-0.parquet")
    Dataset.from_list(rows).to_parquet(tmp_path / "data/pairs/train-0.parquet")
    return tmp_path / "data"


def run(name: str | Path, model: str, data: Path, *options: str) -> None:
    new_recipe.main([str(name), "--model", model, "--data", str(data), *options])


def refused(capsys, *argv: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def read(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize("options", [(), ("--cpu",), ("--gpu-memory", "24"), ("--gpus", "8", "--gpu-memory", "80")])
def test_both_stages_pass_preflight_and_redi_starts_from_what_sft_writes(options, model_path, data, tmp_path, capsys):
    run(tmp_path / "out" / "mine", model_path, data, *options)
    sft, redi = (tmp_path / "out" / stage / "mine" for stage in ("sft", "redi"))
    said = capsys.readouterr().out
    assert said.count("No problem found.") == 2 and "FAIL" not in said
    assert ("no GPU was found" in said) == (not options)
    assert f"bash {os.path.relpath(sft)}/train.sh\n" in said and ".mine.tmp" not in said
    assert read(sft)["output_dir"] == read(redi)["model_name_or_path"] == str(sft / "run")
    for config, folder in ((read(sft), "positives"), (read(redi), "pairs")):
        assert config["dataset_name"] == str(data / folder)
        assert config["global_batch_size"] == (8 if "8" in options else 4)
        on_cpu = not options or "--cpu" in options
        assert (config.get("use_cpu"), config["dtype"]) == ((True, "float32") if on_cpu else (None, "bfloat16"))
    machine = Machine(0 if on_cpu else 8 if "8" in options else 1, 24.0)
    preflight(sft / "config.yaml", [], machine, lambda line: None)  # as it is


def test_a_name_alone_is_a_recipe_of_the_repository(model_path, data, tmp_path, monkeypatch):
    monkeypatch.setattr(new_recipe, "REPOSITORY", tmp_path)
    monkeypatch.chdir(data)
    run("mine", model_path, Path("pairs"))  # relative to the working folder
    folder = tmp_path / "recipes/redi/mine"
    paths = {key: read(folder)[key] for key in ("model_name_or_path", "dataset_name", "output_dir")}
    assert paths == {"model_name_or_path": model_path, "dataset_name": "data/pairs", "output_dir": "runs/redi/mine"}
    shipped = REPOSITORY / "recipes/redi/quickstart"
    for name in ("train.sh", "eval.sh"):
        assert str(tmp_path) not in (folder / name).read_text()
    assert (folder / "eval.sh").read_text().replace("quick --prompt bare", "quickstart") == (
        shipped / "eval.sh"
    ).read_text()


def test_an_existing_recipe_is_refused_before_any_is_written(model_path, data, tmp_path, capsys):
    (tmp_path / "out/redi/mine").mkdir(parents=True)
    assert "redi/mine exists; choose another NAME" in refused(capsys, tmp_path / "out/mine", model_path, data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["redi"]


@pytest.mark.parametrize(
    "name, data_folder, options, message",
    [
        ("mine", "", ("--cpu", "--gpu-memory", "24"), "not allowed with argument"),
        ("mine", "", ("--cpu", "--gpus", "2"), "--gpus is not for --cpu"),
        ("mine", "", ("--gpus", "2"), "give --gpu-memory too"),
        ("my recipe", "", (), "/my recipe' names files: use letters"),
        (".hidden", "", (), "/.hidden' names files: use letters"),
        ("mine", "nowhere", (), "nowhere does not exist, and is not a Hub id"),
        ("mine", "pairs", ("--stage", "sft"), "this stage trains on positives (messages)"),
        ("mine", "", ("--stage", "dpo"), "invalid choice: 'dpo'"),
        ("mine", "", ("--gpu-memory", "1"), "needs 1.5 GiB, but each GPU has 1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    name, data_folder, options, message, model_path, data, tmp_path, capsys
):
    said = refused(capsys, tmp_path / "out" / name, model_path, data / data_folder, *options)
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*.yaml")) and not list((tmp_path / "out").rglob("*.sh"))


def test_both_recipes_are_written_or_none(model_path, data, tmp_path, capsys):
    Dataset.from_list(make_pairs(1)).select([]).to_parquet(data / "pairs/train-0.parquet")
    assert "pairs has no rows" in refused(capsys, tmp_path / "out/mine", model_path, data)
    assert not list((tmp_path / "out").rglob("*.yaml"))


def test_rows_of_both_kinds_need_a_stage(model_path, rows_file, tmp_path, capsys):
    assert "choose --stage sft or --stage redi" in refused(capsys, tmp_path / "mine", model_path, rows_file)
    run(tmp_path / "mine", model_path, rows_file, "--stage", "sft")
    assert (tmp_path / "sft/mine/config.yaml").is_file() and not (tmp_path / "redi").exists()


def test_a_path_that_yaml_would_read_otherwise_is_quoted(model_path, data, tmp_path):
    odd = tmp_path / "my data: 1 #2"
    data.rename(odd)
    run(tmp_path / "sft" / "mine", model_path, odd / "positives")
    assert read(tmp_path / "sft/mine")["dataset_name"] == str(odd / "positives")


def test_adapters_are_trained_where_all_weights_do_not_fit(model_path, data, tmp_path, monkeypatch):
    def no_room(report, recipe, *others):
        if recipe.lora is None or recipe.args.max_tokens_per_micro_batch > 4096:
            raise UsageError("too large")

    monkeypatch.setattr(writer, "check_memory", no_room)
    run(tmp_path / "mine", model_path, data / "pairs", "--gpu-memory", "24")
    config = read(tmp_path / "redi" / "mine")
    assert (config["lora_r"], config["learning_rate"], config["accelerate_config"]) == (64, "1e-5", "ddp")
    assert config["max_tokens_per_micro_batch"] == 4096


@pytest.mark.parametrize(
    "rows, paper, gpus, expected",
    [(10, 128, 1, 4), (160, 128, 1, 8), (77_629, 128, 1, 128), (10, 32, 8, 8), (53_175, 32, 6, 24), (9, 32, 64, 64)],
)
def test_the_global_batch_leaves_an_epoch_some_steps(rows, paper, gpus, expected):
    assert writer._batch(rows, paper, gpus) == expected


@pytest.mark.slow
def test_a_recipe_outside_of_the_repository_trains_and_is_evaluated(model_path, data, tmp_path):
    run(tmp_path / "my runs" / "mine", model_path, data / "positives", "--cpu")
    folder = tmp_path / "my runs/sft/mine"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def bash(*command: str) -> str:
        result = subprocess.run(["bash", *command], cwd="/", env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
        return result.stdout

    bash(str(folder / "train.sh"), "--max_steps", "1", "--save_strategy", "no")
    assert (folder / "run/model.safetensors").is_file()
    benchmark = tmp_path / "own.jsonl"
    benchmark.write_text('{"id": 1, "problem": "What is 1 + 1?", "answer": "2"}\n')
    bash(str(folder / "eval.sh"), "--benchmark", str(benchmark), "--n", "1", "--max-tokens", "4")
    assert len(list((folder / "report").glob("*/table.md"))) == 1


@pytest.mark.real
@pytest.mark.parametrize("memory, lora", [("24", None), ("3", 64)])
def test_a_real_model_on_a_gpu_with_and_without_room(memory, lora, real_path, data, tmp_path, capsys):
    run(tmp_path / "mine", str(real_path), data, "--gpu-memory", memory)
    assert [read(tmp_path / stage / "mine").get("lora_r") for stage in ("sft", "redi")] == [lora, lora]
    assert capsys.readouterr().out.count("No problem found.") == 2
