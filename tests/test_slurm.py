"""SLURM jobs as they are rendered; two machines without SLURM; with REDI_TEST_SLURM=1, a real one on this machine.

The last needs Debian's slurmctld and slurmd (apt-get install slurm-wlm) and four minutes.
"""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, make_pairs
from datasets import Dataset

sys.path.insert(0, str(REPOSITORY / "scripts" / "slurm"))
import submit

REDI = REPOSITORY / "recipes" / "redi" / "qwen2.5-math-1.5b_alpha0.8"
ON_CPU = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def rendered(capsys, *argv: str) -> dict[str, str]:
    """What --dry-run prints: file name -> its text, with the sbatch command as the first line."""
    submit.main([argv[0], "--dry-run", *argv[1:]])
    files = re.split(r"^(?=# sbatch )", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    return {Path(text.splitlines()[0].split()[-1]).stem: text for text in files}


def srun(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return line.split("--kill-on-bad-exit=1 ")[1].removesuffix(" || code=$?")


def test_a_training_on_two_nodes(capsys):
    (text,) = rendered(
        capsys, "train", str(REDI), "--nodes", "2", "--sbatch=--partition=gpu", "--", "--alpha", "0.5"
    ).values()
    settings = re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=64"} <= set(settings)
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append", "--partition=gpu"} <= set(settings)
    command = "bash recipes/redi/qwen2.5-math-1.5b_alpha0.8/train.sh --alpha 0.5"
    assert srun(text) == f"bash -c 'MACHINE_RANK=$SLURM_NODEID exec \"$@\"' bash {command}"
    assert "NUM_MACHINES=$SLURM_NNODES" in text and 'scontrol requeue "$SLURM_JOB_ID"' in text
    assert "NUM_MACHINES" not in rendered(capsys, "train", str(REDI))["train-redi-qwen2.5-math-1.5b_alpha0.8"]


def test_an_evaluation_is_an_array_and_a_job_that_gathers(capsys):
    files = rendered(capsys, "evaluate", str(REDI), "--shards", "4")
    name = "evaluate-redi-qwen2.5-math-1.5b_alpha0.8"
    assert "#SBATCH --array=1-4\n" in files[f"{name}-shards"]
    assert srun(files[f"{name}-shards"]).endswith("eval.sh --shard $SLURM_ARRAY_TASK_ID/4")
    assert f"--dependency=afterok:<{name}-shards>" in files[name] and srun(files[name]).endswith("eval.sh")
    assert list(rendered(capsys, "evaluate", str(REDI), "--shards", "1")) == [name]


def test_a_pipeline_runs_every_stage_after_what_it_reads(capsys):
    files = rendered(capsys, "pipeline", "table2", "--shards", "2", "--cpu-sbatch=--partition=cpu")
    after = {}
    for name, text in files.items():
        found = re.search(r"afterok:(\S+)", text.splitlines()[0])
        after[name] = re.findall(r"<(.*?)>", found[1]) if found else []
        assert set(after[name]) <= after.keys() - {name}  # submitted before
    start = "train-sft-qwen2.5-math-1.5b_3ep"
    assert after[start] == ["data"]
    stage_2 = [name for name in files if name.startswith("train-") and name != start]
    assert len(stage_2) == 4 and all(after[name] == [start] for name in stage_2)
    assert all(after[f"evaluate-{name[6:]}-shards"] == [name] for name in [start, *stage_2])
    assert after["table"] == [f"evaluate-{name[6:]}" for name in [start, *stage_2]]
    assert all(("--partition=cpu" in text) == (name in ("data", "table")) for name, text in files.items())
    commands = [srun(text).replace(" $SLURM_ARRAY_TASK_ID/2", "") for text in files.values()]
    listed = subprocess.run(
        ["bash", REPOSITORY / "recipes/pipeline.sh", "table2", "list"], capture_output=True, text=True
    )
    assert {f"bash recipes/pipeline.sh table2 {line}" for line in listed.stdout.splitlines()} == set(commands)


def test_job_files_are_valid_scripts(capsys, tmp_path):
    files = rendered(capsys, "pipeline", "controls", "--nodes", "2")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for name, text in files.items():
        (tmp_path / name).write_text(text.split("\n", 1)[1])
        assert subprocess.run(["bash", "-n", tmp_path / name]).returncode == 0
    if shellcheck.is_file():
        command = [shellcheck, "--severity=warning", *tmp_path.iterdir()]
        assert subprocess.run(command, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["train", "recipes/redi/qwen2.5-math-1.5b_alpha.8"],
            "is no recipe; did you mean 'redi/qwen2.5-math-1.5b_alpha0.8'?",
        ),
        (["train", str(REDI), "--node", "2"], "unknown option '--node'; did you mean '--nodes'?"),
        (["train", str(REDI), "--nodes", "0"], "--nodes 0 must be at least 1"),
        (["pipeline", "table9"], "TARGET is one of table1"),
        (["pipeline", "table1", "--", "--alpha", "1"], "-- is for train and evaluate"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        submit.main([argv[0], "--dry-run", *argv[1:]])
    output = capsys.readouterr()
    assert caught.value.code == 2 and message in output.err and output.err.count("\n") == 1 and not output.out


# --- real runs ---------------------------------------------------------------------------------------------------


@pytest.fixture()
def training(model_path, tmp_path) -> list[str]:
    """Options of a run that takes a minute or so."""
    Dataset.from_list(make_pairs(16)).to_parquet(tmp_path / "pairs.parquet")
    argv = ["--model_name_or_path", model_path, "--dataset_name", str(tmp_path / "pairs.parquet")]
    argv += ["--use_cpu", "true", "--bf16", "false", "--dtype", "float32", "--gradient_checkpointing", "false"]
    argv += ["--global_batch_size", "4", "--max_steps", "300", "--save_steps", "10", "--disable_tqdm", "true"]
    return [*argv, "--output_dir", str(tmp_path / "out")]


def wait_for(condition, what: str, seconds: float = 300) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, what
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_machines_stop_together_with_143_and_resume(training, tmp_path):
    """Two launchers over gloo, as on two machines; SIGTERM goes to all processes of one, as SLURM sends it."""
    settings = yaml.safe_load((REPOSITORY / "configs/accelerate/ddp.yaml").read_text()) | {"mixed_precision": "no"}
    (tmp_path / "ddp.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    environment = ON_CPU | {"ACCELERATE_CONFIG": str(tmp_path / "ddp.yaml"), "NUM_PROCESSES": "1", "NUM_MACHINES": "2"}
    environment |= {"MAIN_PROCESS_IP": "127.0.0.1", "MAIN_PROCESS_PORT": str(port)}

    def start(rank: int, log: str, *options: str) -> subprocess.Popen:
        command = ["bash", str(REDI / "train.sh"), *training, *options]
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


CLUSTER = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=1000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture()
def cluster(tmp_path) -> Iterator[dict[str, str]]:
    """A SLURM of one node, on this machine; the environment of its commands."""
    if os.environ.get("REDI_TEST_SLURM") != "1":
        pytest.skip("a real SLURM is tried with REDI_TEST_SLURM=1")
    host, ports = socket.gethostname().split(".")[0], [free_port(), free_port()]
    values = {"host": host, "ports": ports, "user": getpass.getuser(), "folder": tmp_path / "slurm"}
    for name in ("state", "spool"):
        (tmp_path / "slurm" / name).mkdir(parents=True)
    (tmp_path / "slurm.conf").write_text(CLUSTER.format(**values))
    environment = {**ON_CPU, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    path = f"{os.environ['PATH']}:/usr/sbin"
    daemons = [shutil.which(name, path=path) for name in ("slurmctld", "slurmd")]
    assert all(daemons), "REDI_TEST_SLURM=1 needs slurmctld and slurmd"
    running = [subprocess.Popen([daemon, "-D"], env=environment, stderr=subprocess.DEVNULL) for daemon in daemons]
    try:
        idle = ["sinfo", "--noheader", "--format=%t"]
        wait_for(
            lambda: subprocess.run(idle, env=environment, capture_output=True, text=True).stdout.startswith("idle"),
            "SLURM did not come up",
            60,
        )
        yield environment
    finally:
        for daemon in running:
            daemon.terminate()
            daemon.wait()


@pytest.mark.slow
def test_a_real_job_is_stopped_goes_back_into_the_queue_and_ends(cluster, training, tmp_path):
    command = [sys.executable, str(REPOSITORY / "scripts/slurm/submit.py"), "train", str(REDI), "--gpus", "0"]
    command += ["--time", "00:30:00", "--folder", str(tmp_path / "jobs"), "--", *training]
    result = subprocess.run(command, env=cluster, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    job = re.search(r": job (\d+)", result.stdout)[1]
    wait_for((tmp_path / "out" / "checkpoint-10").is_dir, "no checkpoint")
    # What SLURM does at the time that --signal sets, or when it pre-empts the job.
    subprocess.run(["scancel", "--signal=TERM", job], env=cluster, check=True)
    log = tmp_path / "jobs" / f"train-redi-{REDI.name}-{job}.log"
    wait_for(lambda: "back into the queue" in log.read_text(), "the job did not go back")
    step = re.search(r"stopped by SIGTERM after step (\d+)", log.read_text())[1]
    wait_for((tmp_path / "out" / "manifest.json").is_file, "the job did not end", 500)
    assert f"resuming from {tmp_path}/out/checkpoint-{step}" in log.read_text()
    queue = ["squeue", "--noheader"]
    wait_for(lambda: not subprocess.run(queue, env=cluster, capture_output=True).stdout, "the queue is not empty")
