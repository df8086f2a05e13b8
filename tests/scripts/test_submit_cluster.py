"""The jobs on a real SLURM: a complete table, time limits, pre-emption and failures; and two machines without SLURM.

Skipped if SLURM is not installed, except for the two machines; see helpers/slurm.py for what is needed.
"""

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import submit
import yaml
from datasets import Dataset
from helpers.paths import REPOSITORY
from helpers.pipeline import REDI, SFT, TRAIN, cut_down
from helpers.slurm import (
    ON_CPU,
    free_port,
    jobs_of,
    output_of,
    preempt,
    running_cluster,
    stop_task,
    submitted,
    wait_for,
    wait_for_end,
)
from helpers.tiny import make_pairs

RECIPE = REPOSITORY / "recipes" / REDI


@pytest.fixture()
def cluster() -> Iterator[dict[str, str]]:
    # A short name: SLURM makes sockets there, and a socket's path is limited to 108 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, running_cluster(Path(folder)) as environment:
        yield environment


@pytest.fixture()
def training(model_path, tmp_path) -> list[str]:
    """Options of a run that takes about a minute."""
    Dataset.from_list(make_pairs(16)).to_parquet(tmp_path / "pairs.parquet")
    argv = ["--model_name_or_path", model_path, "--dataset_name", str(tmp_path / "pairs.parquet")]
    argv += ["--use_cpu", "true", "--bf16", "false", "--dtype", "float32", "--gradient_checkpointing", "false"]
    argv += ["--global_batch_size", "4", "--max_steps", "300", "--save_steps", "10", "--disable_tqdm", "true"]
    return [*argv, "--output_dir", str(tmp_path / "out")]


def one_process_per_machine(folder: Path, name: str) -> dict[str, str]:
    """Environment of a training on several machines, with one process on each and no GPU."""
    settings = yaml.safe_load((REPOSITORY / f"configs/accelerate/{name}.yaml").read_text()) | {"mixed_precision": "no"}
    if settings["distributed_type"] != "MULTI_GPU":  # otherwise accelerate would start them through MPI
        settings["use_cpu"] = True
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(settings))
    return {"ACCELERATE_CONFIG": str(folder / "accelerate.yaml"), "NUM_PROCESSES": "1"}


class Log:
    """The log of a training job: the steps at which it was stopped and resumed."""

    def __init__(self, folder: Path, number: str):
        self.path = folder / f"train-redi-{RECIPE.name}-{number}.log"

    def text(self) -> str:
        return self.path.read_text() if self.path.is_file() else ""

    def stops(self) -> list[int]:
        return [int(step) for step in re.findall(r"stopped by SIGTERM after step (\d+)", self.text())]

    def resumptions(self) -> list[int]:
        return [int(step) for step in re.findall(r"resuming from \S+/checkpoint-(\d+)", self.text())]


def wait_for_checkpoint_after(folder: Path, step: int) -> None:
    def steps() -> list[int]:
        return [int(path.parent.name.split("-")[1]) for path in folder.glob("checkpoint-*/trainer_state.json")]

    wait_for(lambda: max(steps(), default=0) > step, f"no checkpoint after step {step}")


@pytest.mark.slow
def test_a_training_outlives_preemption_and_its_time_limit_but_not_scancel(cluster, training, tmp_path):
    submission = [cluster, tmp_path / "jobs", "train", str(RECIPE), "--grace", "60", "--", *training]
    (number,) = submitted(*submission).values()
    after = ["--parsable", f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes", "--output=/dev/null"]
    dependent = output_of(cluster, "sbatch", *after, "--wrap=true").strip()
    log, out = Log(tmp_path / "jobs", number), tmp_path / "out"

    # Without a grace time SLURM requeues the job itself at once, and kills what still runs after KillWait, 30 s.
    output_of(cluster, "scontrol", "update", "PartitionName=low", "GraceTime=0")
    wait_for_checkpoint_after(out, 0)
    assert wait_for_end(cluster, preempt(cluster)) == "COMPLETED" and len(log.stops()) == 1
    assert jobs_of(cluster, dependent)[0]["JobState"] == "PENDING"

    long = ["--max_steps", "100000", "--save_total_limit", "2", "--output_dir", str(tmp_path / "long")]
    (long_number,) = submitted(*submission, *long).values()
    long_log = Log(tmp_path / "jobs", long_number)
    wait_for_checkpoint_after(tmp_path / "long", 0)
    # Every 30 seconds SLURM looks for jobs with at most 90 seconds left (60 of grace and 30); see --signal of sbatch.
    output_of(cluster, "scontrol", "update", f"JobId={long_number}", "TimeLimit=2")
    wait_for(lambda: "back to the queue" in long_log.text(), "not stopped before the time limit", 120)
    wait_for(lambda: long_log.resumptions() == long_log.stops(), "not resumed")
    wait_for_checkpoint_after(tmp_path / "long", long_log.stops()[0])
    output_of(cluster, "scancel", long_number)

    assert wait_for_end(cluster, number) == "COMPLETED" and log.stops() == log.resumptions()
    assert "back to the queue" not in log.text() and jobs_of(cluster, number)[0]["Restarts"] == "1"  # by SLURM, once
    assert json.loads((out / "manifest.json").read_text())["counts"]["steps"] == 300
    assert wait_for_end(cluster, dependent, 30) == "COMPLETED"
    wait_for(lambda: not output_of(cluster, "squeue", "--noheader"), "the queue is not empty", 60)
    assert [jobs_of(cluster, long_number)[0][key] for key in ("JobState", "Restarts")] == ["CANCELLED", "1"]


@pytest.mark.slow
def test_two_nodes_are_requeued_when_stopped_and_not_when_one_fails(cluster, training, tmp_path):
    training[training.index("--max_steps") + 1] = "5000"
    options = ["--nodes", "2", "--", *training]
    (number,) = submitted(
        cluster | one_process_per_machine(tmp_path, "ddp"), tmp_path / "jobs", "train", str(RECIPE), *options
    ).values()
    log, out = Log(tmp_path / "jobs", number), tmp_path / "out"
    wait_for_checkpoint_after(out, 0)
    assert wait_for_end(cluster, preempt(cluster)) == "COMPLETED"
    assert log.text().count("back to the queue") == 1 and len(log.stops()) == 1

    wait_for_checkpoint_after(out, log.stops()[0])
    assert log.resumptions() == log.stops()
    (worker,) = [
        process
        for process in psutil.process_iter(["environ", "cmdline"])
        if (process.info["environ"] or {}).get("SLURM_CONF") == cluster["SLURM_CONF"]
        and process.info["environ"].get("RANK") == "1"
        and "train_redi.py" in " ".join(process.info["cmdline"])
    ]
    worker.kill()
    # The other node gets SIGTERM and ends with 143, as if it were pre-empted.
    assert wait_for_end(cluster, number) == "FAILED", log.text()[-3000:]
    assert jobs_of(cluster, number)[0]["Restarts"] == "1" and jobs_of(cluster, number)[0]["ExitCode"] == "1:0"
    assert not (out / "manifest.json").exists()


@pytest.fixture()
def tables(tmp_path) -> dict[str, str]:
    return cut_down(tmp_path / "task") | {"TRAIN_OPTIONS": f"{TRAIN} --max_steps 4 --disable_tqdm true"}


def generations(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_table_runs_in_order_and_a_failing_one_is_cancelled(cluster, tables, tmp_path):
    misspelt = {"ROOT": str(tmp_path / "failing"), "TRAIN_OPTIONS": f"{tables['TRAIN_OPTIONS']} --learning_rte 1"}
    argv = ["pipeline", "table1", "--shards", "2"]
    failing = submitted(cluster | tables | misspelt, tmp_path / "failing-jobs", *argv)
    root, folder = tmp_path / "root", tmp_path / "jobs"
    jobs = submitted(cluster | tables | {"ROOT": str(root)}, folder, *argv)
    sft, redi = SFT.replace("/", "-"), REDI.replace("/", "-")
    plan = submit.pipeline_jobs(submit.parse([*argv, "--gpus", "0"]))

    # An option that does not exist: exit code 2 before any GPU is requested, no second try, and no job waits forever.
    assert wait_for_end(cluster, failing.pop("data")) == "COMPLETED"
    first = failing.pop(f"tokenize-{sft}")
    assert wait_for_end(cluster, first) == "FAILED"
    assert [jobs_of(cluster, first)[0][key] for key in ("ExitCode", "Restarts")] == ["2:0", "0"]
    assert {wait_for_end(cluster, number, 30) for number in failing.values()} == {"CANCELLED"}

    # One task of the array is stopped: the last one, whose job id is that of the array.
    array = jobs[f"evaluate-{sft}-shards"]
    stop_task(cluster, f"{array}_2", folder / f"evaluate-{sft}-shards-{array}_2.log")
    assert wait_for_end(cluster, jobs["table"], 400) == "COMPLETED"
    ended = {name: jobs_of(cluster, number) for name, number in jobs.items()}
    for job in plan:
        assert [task["JobState"] for task in ended[job.name]] == ["COMPLETED"] * (
            2 if job.name.endswith("-shards") else 1
        )
        for name in job.after:
            last = max(task["EndTime"] for task in ended[name])
            assert last <= min(task["StartTime"] for task in ended[job.name]), (name, job.name)
    restarts = {name: [task["Restarts"] for task in tasks] for name, tasks in ended.items()}
    assert restarts.pop(f"evaluate-{sft}-shards") == ["0", "1"]
    assert {restart for each in restarts.values() for restart in each} == {"0"}

    rows = []
    for run, name in ((SFT, sft), (REDI, redi)):
        model = root / "runs" / run
        (answers,) = (model.parent / "evaluation").glob(f"{model.name}*")  # the name includes EVALUATE_OPTIONS
        rows.append(answers.name)
        whole = generations(answers)
        parts = [generations(answers / f"shard-{part}-of-2") for part in (1, 2)]
        ids = [json.loads(line)["id"] for line in (tmp_path / "task" / "digits.jsonl").read_text().splitlines()]
        assert [[row["id"] for row in part] for part in parts] == [ids[0::2], ids[1::2]]
        assert whole == [*parts[0], *parts[1]] and len(whole) == 4
        log = (folder / f"evaluate-{name}-{jobs[f'evaluate-{name}']}.log").read_text()
        assert "gathered 4 samples from 2 shards" in log
        assert "samples: " not in log  # no progress bar: this job sampled nothing
        assert "samples: " in (folder / f"evaluate-{name}-shards-{jobs[f'evaluate-{name}-shards']}_1.log").read_text()
    table = json.loads((root / "runs" / "report" / "table1" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == rows
    assert (root / "runs" / "report" / "table1" / "table1.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("accelerate", ["ddp", "zero2"])
def test_two_machines_stop_together_with_143_and_resume(training, tmp_path, accelerate):
    """Two launchers over gloo, as on two machines, without SLURM; one gets SIGTERM, and both end."""
    environment = ON_CPU | one_process_per_machine(tmp_path, accelerate) | {"NUM_MACHINES": "2"}
    environment |= {"MAIN_PROCESS_IP": "127.0.0.1", "MAIN_PROCESS_PORT": str(free_port())}

    def start(rank: int, log: str, *options: str) -> subprocess.Popen:
        command = ["bash", str(RECIPE / "train.sh"), *training, *options]
        with (tmp_path / log).open("w") as stream:
            return subprocess.Popen(
                command, env=environment | {"MACHINE_RANK": str(rank)}, stdout=stream, stderr=stream
            )

    machines = [start(rank, f"first-{rank}") for rank in (0, 1)]
    wait_for((tmp_path / "out" / "checkpoint-10").is_dir, "no checkpoint")
    machines[1].send_signal(signal.SIGTERM)
    assert machines[1].wait(120) == 143
    assert machines[0].wait(120) != 0 and not (tmp_path / "out" / "manifest.json").exists()
    step = re.search(r"stopped by SIGTERM after step (\d+)", (tmp_path / "first-0").read_text())[1]

    last = ["--max_steps", str(int(step) + 5)]
    machines = [start(rank, f"second-{rank}", *last) for rank in (0, 1)]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    assert f"resuming from {tmp_path}/out/checkpoint-{step}" in (tmp_path / "second-0").read_text()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["world_size"] == 2
