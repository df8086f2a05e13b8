"""A SLURM cluster of two nodes on this machine for a test, and the questions that tests ask it.

Needs Debian's slurmctld and slurmd (apt-get install slurm-wlm). Its GPUs are claimed, not real.
"""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from helpers.paths import REPOSITORY

ON_CPU = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
SUBMIT = [sys.executable, str(REPOSITORY / "scripts/slurm/submit.py")]
CLUSTER = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
# A requeued job waits for this many seconds, and one more.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={ports[0]}
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=1000 Gres=gpu:2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=1000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=120 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, what
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def kill_all(folder: Path) -> None:
    """Kills every process of the cluster in the folder: daemons and jobs have its SLURM_CONF in their environment.

    Not so slurmstepd, which overwrites its environment; it has the log of its node open.
    """

    def is_of_cluster(process: psutil.Process) -> bool:
        environment, files = process.info["environ"] or {}, process.info["open_files"] or []
        here = str(folder / "slurm.conf")
        return environment.get("SLURM_CONF") == here or any(file.path.startswith(f"{folder}/") for file in files)

    while found := list(filter(is_of_cluster, psutil.process_iter(["environ", "open_files"]))):
        for process in found:
            process.kill()
        psutil.wait_procs(found, timeout=10)


@contextmanager
def running_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster that keeps its files in the folder; gives the environment for SLURM's commands.

    Skips the test if SLURM is not installed.
    """
    path = f"{os.environ['PATH']}:/usr/sbin"
    controller, node = (shutil.which(name, path=path) for name in ("slurmctld", "slurmd"))
    if not (controller and node):
        pytest.skip("slurmctld and slurmd are not installed; on Debian: apt-get install slurm-wlm")
    host = socket.gethostname().split(".")[0]
    for name in ("state", host, "localhost"):
        (folder / name).mkdir(parents=True)
    ports = [free_port() for _ in range(3)]
    conf = CLUSTER.format(host=host, ports=ports, user=getpass.getuser(), folder=folder)
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # any two devices
    environment = {**ON_CPU, "SLURM_CONF": str(folder / "slurm.conf")}
    # If this process is killed, its end of the pipe closes, and the undertaker still ends the cluster.
    command = [sys.executable, "-m", "helpers.slurm", str(folder)]
    undertaker = subprocess.Popen(command, cwd=REPOSITORY / "tests", stdin=subprocess.PIPE)
    running = [undertaker]
    try:
        for daemon in ([controller], [node, "-N", host], [node, "-N", "localhost"]):
            running.append(subprocess.Popen([*daemon, "-D"], env=environment, stderr=subprocess.DEVNULL))
        sinfo = ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%t"]
        wait_for(
            lambda: subprocess.run(sinfo, env=environment, capture_output=True).stdout.split() == [b"idle", b"idle"],
            "SLURM did not start",
            60,
        )
        yield environment
    finally:
        undertaker.stdin.close()
        for process in running:
            process.wait()


def output_of(cluster: dict[str, str], *command: str) -> str:
    """What a command prints; it must succeed."""
    result = subprocess.run(command, env=cluster, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def submitted(cluster: dict[str, str], folder: Path, *argv: str) -> dict[str, str]:
    """Name -> id of the jobs that submit.py submits, with trainings on no GPU and logs in the folder."""
    options = ["--gpus", "0", "--time", "00:30:00", "--folder", str(folder)]
    out = output_of(cluster, *SUBMIT, *argv[:2], *options, *argv[2:])
    return dict(re.findall(r"^(.*): job (\d+)$", out, flags=re.MULTILINE))


def jobs_of(cluster: dict[str, str], number: str) -> list[dict[str, str]]:
    """What SLURM knows about a job, or about each task of an array."""
    lines = output_of(cluster, "scontrol", "show", "job", "--oneliner", number).splitlines()
    return sorted(
        (dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines), key=lambda job: job.get("ArrayTaskId", "")
    )


def wait_for_end(cluster: dict[str, str], number: str, seconds: float = 300) -> str:
    """The state in which a job ends."""
    last = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED")

    def state() -> str:
        return jobs_of(cluster, number)[0]["JobState"]

    wait_for(lambda: state() in last, f"job {number} did not end: {state()}", seconds)
    return state()


def stop_task(cluster: dict[str, str], task: str, log: Path) -> None:
    """Sends SIGTERM to the work of an array's task until its log says that it goes back to the queue.

    A signal that arrives while SLURM is still starting the step is lost, hence more than one.
    """

    def stopped() -> bool:
        if log.is_file() and "back to the queue" in log.read_text():
            return True
        if jobs_of(cluster, task)[0]["JobState"] == "RUNNING":
            subprocess.run(["scancel", "--signal=TERM", task], env=cluster, capture_output=True)
        return False

    wait_for(stopped, f"task {task} was not stopped")


def preempt(cluster: dict[str, str]) -> str:
    """Submits a job that takes precedence over all others and needs every node; returns its id."""
    options = ["--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    return output_of(cluster, "sbatch", *options, "--wrap=true").strip()


if __name__ == "__main__":
    sys.stdin.read()
    kill_all(Path(sys.argv[1]))
