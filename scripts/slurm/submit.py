"""SLURM jobs: a training on one or several nodes, an evaluation in shards, or a whole table; --dry-run prints them.

python scripts/slurm/submit.py train recipes/redi/qwen2.5-math-1.5b_alpha0.8 --nodes 2 -- --alpha 0.5
python scripts/slurm/submit.py evaluate recipes/redi/qwen2.5-math-1.5b_alpha0.8 --shards 8
python scripts/slurm/submit.py pipeline table1 --sbatch=--partition=gpu --dry-run

A job that comes near its time limit or is pre-empted gets SIGTERM, saves what it has and goes back into the queue; it
goes on from there. One that fails is not tried again, and the jobs that need it are cancelled; the same command again
goes on where it was. The environment of this command is that of the jobs.
"""

import argparse
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from redi.runs.cli import StrictParser
from redi.runs.errors import UsageError, entry_point, nearest
from redi.runs.files import write_text

REPOSITORY = Path(__file__).resolve().parents[2]
CPUS_PER_GPU = 8
CPUS_WITHOUT_GPU = 16

# The signal goes to the processes of `srun` and not to this shell, which is to see how they end: 143 is SIGTERM.
BODY = """set -euo pipefail
cd {repository}
{setup}code=0
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 {command} || code=$?
{ended}if [ "$code" = 143 ]; then
    echo "stopped before its end: back into the queue"
    scontrol requeue {itself}
fi
exit "$code"
"""
SEVERAL_NODES = """NUM_MACHINES=$SLURM_NNODES
MAIN_PROCESS_IP=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MAIN_PROCESS_PORT=$((20000 + SLURM_JOB_ID % 12000))
STOPPED=$(mktemp)
trap 'rm -f "$STOPPED"' EXIT
export NUM_MACHINES MAIN_PROCESS_IP MAIN_PROCESS_PORT STOPPED
"""
# A node that was stopped ends well for srun, which would otherwise kill those that still save. And where a node fails,
# srun stops the others and reports the highest code: their 143 would send a job that cannot work back into the queue.
# This shell, on the first node, is told by a file. The trap lets the shell on each node outlive the signal.
ON_EACH_NODE = """bash -c 'trap : TERM; MACHINE_RANK=$SLURM_NODEID "$@" || code=$?
if [ "${code:=0}" = 143 ]; then code=0; if [ "$SLURM_NODEID" = 0 ]; then echo yes >"$STOPPED"; fi; fi
exit "$code"' bash """
ENDED_ON_SEVERAL_NODES = """if [ "$code" = 0 ] && [ -s "$STOPPED" ]; then code=143; fi
"""
# The id of an array's last task is also that of the array: alone it would put every task back.
ITSELF = '"$SLURM_JOB_ID"'
ITSELF_IN_ARRAY = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'


@dataclass(frozen=True)
class Job:
    """One job file.

    Attributes:
        name: of the job, its file and its log.
        command: what it runs, as in a shell; paths are relative to the repository.
        nodes: with one task on each.
        gpus: a node; with 0 the job goes where `--cpu-sbatch` says.
        array: number of tasks, from 1; 0 where the job is none.
        after: names of the jobs that must have ended well.
    """

    name: str
    command: str
    nodes: int = 1
    gpus: int = 0
    array: int = 0
    after: tuple[str, ...] = ()


@entry_point
def main(argv: list[str]) -> None:
    argv, _, overrides = (list(part) for part in partition(argv))
    options = parse(argv)
    jobs = {"train": train_jobs, "evaluate": evaluate_jobs, "pipeline": pipeline_jobs}[options.command]
    submit(jobs(options, shlex.join(overrides)), options)


def partition(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The command line before, at and after `--`."""
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where : where + 1], argv[where + 1 :]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    train = commands.add_parser("train", help="a recipe's train.sh; options after -- go to it")
    evaluate = commands.add_parser("evaluate", help="a recipe's eval.sh; options after -- go to it")
    pipeline = commands.add_parser("pipeline", help="recipes/pipeline.sh, each stage a job after those it needs")
    for command in (train, evaluate):
        command.add_argument("recipe", type=Path, help="folder below recipes/")
    pipeline.add_argument("target", help="what pipeline.sh makes, such as table1")
    for command in (train, pipeline):
        command.add_argument("--nodes", type=int, default=1, metavar="N", help="of a training")
        command.add_argument("--gpus", type=int, default=8, metavar="N", help="of a training, a node")
    for command in (evaluate, pipeline):
        command.add_argument("--shards", type=int, default=8, metavar="N", help="jobs of an evaluation, a GPU each")
    for command in (train, evaluate, pipeline):
        command.add_argument("--time", default="24:00:00", metavar="LIMIT", help="of each job")
        command.add_argument("--grace", type=int, default=300, metavar="S", help="seconds from SIGTERM to the limit")
        command.add_argument(
            "--sbatch", action="append", default=[], metavar="=--OPTION=VALUE", help="may be repeated"
        )
        command.add_argument(
            "--cpu-sbatch", action="append", default=[], metavar="=--OPTION=VALUE", help="for jobs without a GPU"
        )
        command.add_argument("--folder", type=Path, default=Path("runs/slurm"), help="of the job files and logs")
        command.add_argument("--dry-run", action="store_true", help="print the job files, and submit nothing")
    options = parser.parse_args(argv)
    for name in ("nodes", "shards"):
        if getattr(options, name, 1) < 1:
            raise UsageError(f"--{name} {getattr(options, name)} must be at least 1")
    return options


def train_jobs(options: argparse.Namespace, overrides: str) -> list[Job]:
    name = recipe_name(options.recipe)
    if "batch_size" not in overrides:
        refuse_split(name, options)
    command = f"bash recipes/{name}/train.sh {overrides}".strip()
    return [Job(f"train-{flat(name)}", command, options.nodes, options.gpus)]


def evaluate_jobs(options: argparse.Namespace, overrides: str) -> list[Job]:
    name = recipe_name(options.recipe)
    command = f"bash recipes/{name}/eval.sh {overrides}".strip()
    return in_shards(f"evaluate-{flat(name)}", command, options.shards, " --shard $SLURM_ARRAY_TASK_ID/{}", ())


def in_shards(name: str, command: str, shards: int, option: str, after: tuple[str, ...]) -> list[Job]:
    """An array of jobs, and one that gathers what they have sampled, grades and reports. `option` names the part."""
    if shards == 1:
        return [Job(name, command, gpus=1, after=after)]
    part = Job(f"{name}-shards", command + option.format(shards), gpus=1, array=shards, after=after)
    gather = Job(name, command, gpus=1, after=(part.name,))  # in the precision of a GPU, like the parts
    return [part, gather]


def pipeline_jobs(options: argparse.Namespace, overrides: str) -> list[Job]:
    if overrides:
        raise UsageError("-- is for train and evaluate; pipeline.sh is told by TRAIN_OPTIONS and EVALUATE_OPTIONS")
    pipeline = f"bash recipes/pipeline.sh {options.target}"
    listed = subprocess.run([*pipeline.split(), "list"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        raise UsageError(listed.stderr.strip().removeprefix("error: "))
    stages = [line.split() for line in listed.stdout.splitlines()]
    trained_by = {output_dir(run): f"train-{flat(run)}" for stage, *rest in stages if stage == "train" for run in rest}
    jobs = [Job("data", f"{pipeline} data")]
    for stage, *rest in stages:
        run = "".join(rest)
        if stage == "train":
            start = trained_by.get(config(run)["model_name_or_path"], "data")
            if "batch_size" not in os.environ.get("TRAIN_OPTIONS", ""):
                refuse_split(run, options)
            ahead = Job(f"tokenize-{flat(run)}", f"{pipeline} tokenize {run}", after=(start,))
            name, command = trained_by[output_dir(run)], f"{pipeline} train {run}"
            jobs += [ahead, Job(name, command, options.nodes, options.gpus, after=(ahead.name,))]
        elif stage == "evaluate":
            command, after = f"{pipeline} evaluate {run}", (trained_by[output_dir(run)],)
            shard = " $SLURM_ARRAY_TASK_ID/{}"
            jobs += in_shards(f"evaluate-{flat(run)}", command, options.shards, shard, after)
    gathered = tuple(job.name for job in jobs if job.name.startswith("evaluate-") and not job.array)
    return [*jobs, Job("table", f"{pipeline} table", after=gathered)]


def refuse_split(run: str, options: argparse.Namespace) -> None:
    """Refuses nodes and GPUs over which the recipe's global batch does not split, before the job waits for them."""
    total, per_device = (config(run).get(key) for key in ("global_batch_size", "per_device_train_batch_size"))
    gpus = options.nodes * options.gpus
    if gpus and total and per_device and total % (per_device * gpus):
        raise UsageError(
            f"--nodes {options.nodes} --gpus {options.gpus}: global_batch_size={total} of {run} is no multiple of "
            f"{per_device * gpus}: {gpus} GPUs times per_device_train_batch_size={per_device}; change one of them"
        )


def recipe_name(folder: Path) -> str:
    """`STAGE/RUN` of a recipe's folder; a `UsageError` where there is none."""
    known = sorted(
        str(path.parent.relative_to(REPOSITORY / "recipes")) for path in REPOSITORY.glob("recipes/*/*/config.yaml")
    )
    name = "/".join(folder.resolve().parts[-2:])
    if name not in known:
        raise UsageError(f"{folder} is no recipe{nearest(name, known)}")
    return name


def flat(run: str) -> str:
    return run.replace("/", "-")


def config(run: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "recipes" / run / "config.yaml").read_text(encoding="utf-8"))


def output_dir(run: str) -> str:
    return config(run)["output_dir"]


def render(job: Job, options: argparse.Namespace) -> str:
    """The text of a job file."""
    log = options.folder / f"{job.name}-{'%A_%a' if job.array else '%j'}.log"
    lines = [f"--job-name={job.name}", f"--output={log}", "--open-mode=append", f"--time={options.time}"]
    lines += [f"--nodes={job.nodes}", "--ntasks-per-node=1"]
    lines += [f"--cpus-per-task={job.gpus * CPUS_PER_GPU or CPUS_WITHOUT_GPU}"]
    lines += [f"--gpus-per-node={job.gpus}"] if job.gpus else []
    lines += ["--requeue", f"--signal=TERM@{options.grace}"]
    lines += [f"--array=1-{job.array}"] if job.array else []
    lines += options.sbatch if job.gpus else options.cpu_sbatch
    several = job.nodes > 1
    body = BODY.format(
        repository=shlex.quote(str(REPOSITORY)),
        setup=SEVERAL_NODES if several else "",
        command=(ON_EACH_NODE if several else "") + job.command,
        ended=ENDED_ON_SEVERAL_NODES if several else "",
        itself=ITSELF_IN_ARRAY if job.array else ITSELF,
    )
    return "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in lines) + body


def submit(jobs: list[Job], options: argparse.Namespace) -> None:
    """Writes the job files and submits them in order, or prints them."""
    ids = {job.name: f"<{job.name}>" for job in jobs}
    for job in jobs:
        text, path = render(job, options), options.folder / f"{job.name}.sbatch"
        after = [f"--dependency=afterok:{':'.join(ids[name] for name in job.after)}"] if job.after else []
        after += ["--kill-on-invalid-dep=yes"] if job.after else []  # or it would wait for ever for one that failed
        command = ["sbatch", "--parsable", *after, str(path)]
        if options.dry_run:
            print(f"# {' '.join(command)}\n{text}")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise UsageError("sbatch is not installed here; --dry-run prints the job files") from None
        if result.returncode != 0:
            raise UsageError(f"sbatch refused {path}: {result.stderr.strip()}; jobs submitted before it stay")
        ids[job.name] = result.stdout.strip().split(";")[0]
        print(f"{job.name}: job {ids[job.name]}")


if __name__ == "__main__":
    main()
