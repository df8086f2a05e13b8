"""Submits SLURM jobs from the templates in this folder; --dry-run prints the sbatch commands instead.

python scripts/slurm/submit.py train recipes/redi/qwen2.5-math-1.5b_alpha0.8 --nodes 2 -- --alpha 0.5
python scripts/slurm/submit.py evaluate recipes/redi/qwen2.5-math-1.5b_alpha0.8 --shards 8
python scripts/slurm/submit.py pipeline table1 --sbatch=--partition=gpu --dry-run

A job is a template, a shell script for it to run, and options for sbatch. Options that are not given here keep the
template's values. Jobs inherit the environment of this command.
docs/clusters.md says what happens when a job stops or fails.
"""

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from redi.runs.cli import StrictParser, positive_int
from redi.runs.errors import UsageError, entry_point, nearest, usage_errors
from redi.runs.recipe import read_config

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = Path("scripts/slurm")  # like every path of a job, relative to the repository
CPUS_PER_GPU = 8
CPUS_WITHOUT_GPU = 16


class Job(NamedTuple):
    """One call of sbatch."""

    name: str  # of the job and its log
    template: str  # name of the .sbatch file
    command: list[str]  # the shell script that the template runs, and its arguments
    after: tuple[str, ...] = ()  # names of the jobs that must succeed first
    options: tuple[str, ...] = ()  # for sbatch, in addition to those that all jobs share


@entry_point
def main(argv: list[str]) -> None:
    end = argv.index("--") if "--" in argv else len(argv)
    options, overrides = parse(argv[:end]), argv[end + 1 :]
    if options.command == "pipeline":
        if overrides:
            raise UsageError("-- is for train and evaluate; for pipeline.sh set TRAIN_OPTIONS and EVALUATE_OPTIONS")
        jobs = pipeline_jobs(options)
    else:
        run = recipe_name(options.recipe)
        name, script = job_name(options.command, run), {"train": "train.sh", "evaluate": "eval.sh"}[options.command]
        command = [f"recipes/{run}/{script}", *overrides]
        if options.command == "train":
            jobs = [training(name, run, command, options, " ".join(overrides))]
        else:
            jobs = evaluation(name, command, options.shards)
    submit(jobs, options)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=StrictParser)
    train = commands.add_parser("train", help="a recipe's train.sh; options after -- go to it")
    evaluate = commands.add_parser("evaluate", help="a recipe's eval.sh; options after -- go to it")
    pipeline = commands.add_parser("pipeline", help="recipes/pipeline.sh, each stage a job after those it needs")
    count: dict[str, Any] = {"type": positive_int, "metavar": "N"}
    for command in (train, evaluate):
        command.add_argument("recipe", type=Path, help="folder below recipes/")
    pipeline.add_argument("target", help="of pipeline.sh, such as table1")
    for command in (train, pipeline):
        command.add_argument("--nodes", default=1, help="nodes for a training", **count)
        command.add_argument("--gpus", type=int, metavar="N", help="GPUs per node for a training")
    for command in (evaluate, pipeline):
        command.add_argument("--shards", default=8, help="array tasks that sample, a GPU each", **count)
    for command in (train, evaluate, pipeline):
        command.add_argument("--time", metavar="LIMIT", help="time limit of each job, such as 04:00:00")
        command.add_argument("--grace", type=int, metavar="S", help="seconds from SIGTERM to the time limit")
        for name, jobs in (("--sbatch", "with GPUs"), ("--cpu-sbatch", "without GPUs")):
            text = f"option of sbatch for jobs {jobs}; may be repeated"
            command.add_argument(name, action="append", default=[], metavar="=--OPTION=VALUE", help=text)
        command.add_argument("--folder", type=Path, default=Path("runs/slurm"), help="folder for logs")
        command.add_argument("--dry-run", action="store_true", help="print the commands, and submit nothing")
    return parser.parse_args(argv)


def pipeline_jobs(options: argparse.Namespace) -> list[Job]:
    """The data, then for each run its tokenization, training and evaluation, then the table."""
    pipeline = ["recipes/pipeline.sh", options.target]
    listed = subprocess.run(["bash", *pipeline, "list"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        raise UsageError(listed.stderr.strip().removeprefix("error: "))
    jobs, evaluated = [Job("data", "cpu", [*pipeline, "data"])], []
    trained_by: dict[str, str] = {}  # output_dir -> name of the job
    for stage, run in (line.split() for line in listed.stdout.splitlines() if " " in line):
        config, name, command = recipe_config(run), job_name(stage, run), [*pipeline, stage, run]
        if stage == "train":
            start = trained_by.get(config["model_name_or_path"], "data")
            tokenize = Job(job_name("tokenize", run), "cpu", [*pipeline, "tokenize", run], (start,))
            settings = os.environ.get("TRAIN_OPTIONS", "")
            jobs += [tokenize, training(name, run, command, options, settings, (tokenize.name,))]
            trained_by[config["output_dir"]] = name
        else:
            jobs += evaluation(name, command, options.shards, (trained_by[config["output_dir"]],))
            evaluated.append(name)
    return [*jobs, Job("table", "cpu", [*pipeline, "table"], tuple(evaluated))]


def training(
    name: str, run: str, command: list[str], options: argparse.Namespace, overrides: str, after: tuple[str, ...] = ()
) -> Job:
    """A training of the recipe `run`; `overrides` are the options that change the recipe.

    Refuses nodes and GPUs that do not divide the recipe's global batch, before a job queues for them.
    """
    nodes, gpus = options.nodes, options.gpus
    template = "train" if nodes == 1 else "train_multinode"
    settings = [] if nodes == 1 else [f"--nodes={nodes}"]
    if gpus is None:
        text = (REPOSITORY / TEMPLATES / f"{template}.sbatch").read_text(encoding="utf-8")
        found = re.search(r"^#SBATCH --gpus-per-node=(\d+)$", text, flags=re.MULTILINE)
        gpus = int(found[1]) if found else 0
    else:
        settings += [f"--gpus-per-node={gpus}", f"--cpus-per-task={gpus * CPUS_PER_GPU or CPUS_WITHOUT_GPU}"]
    config = recipe_config(run)
    total, per_device = config.get("global_batch_size"), config.get("per_device_train_batch_size", 1)
    step = per_device * nodes * gpus
    if "batch_size" not in overrides and step and total and total % step:
        times = f" times per_device_train_batch_size={per_device}" if per_device > 1 else ""
        raise UsageError(
            f"{nodes} nodes of {gpus} GPUs: global_batch_size={total} of {run} is not a multiple of {step}: "
            f"{nodes * gpus} GPUs{times}; change --nodes, --gpus or the batch size"
        )
    return Job(name, template, command, after, tuple(settings))


def evaluation(name: str, command: list[str], shards: int, after: tuple[str, ...] = ()) -> list[Job]:
    """An array that samples, and a job that gathers the samples, grades and reports; for one shard, only that job."""
    if shards == 1:
        return [Job(name, "evaluate", command, after)]
    sample = Job(f"{name}-shards", "evaluate", command, after, (f"--array=1-{shards}",))
    return [sample, Job(name, "evaluate", command, (sample.name,))]


def recipe_name(folder: Path) -> str:
    """`STAGE/RUN` of a recipe's folder; a `UsageError` if there is no such recipe."""
    recipes = REPOSITORY / "recipes"
    known = sorted(str(path.parent.relative_to(recipes)) for path in recipes.glob("*/*/config.yaml"))
    name = "/".join(folder.resolve().parts[-2:])
    if name not in known:
        raise UsageError(f"{folder} is not a recipe{nearest(name, known)}")
    return name


def recipe_config(run: str) -> dict[str, Any]:
    return read_config(REPOSITORY / "recipes" / run / "config.yaml")


def job_name(stage: str, run: str) -> str:
    return f"{stage}-{run.replace('/', '-')}"


def submit(jobs: list[Job], options: argparse.Namespace) -> None:
    """Submits the jobs in order, or prints the commands that would."""
    ids = {job.name: f"<{job.name}>" for job in jobs}
    if not options.dry_run:
        (REPOSITORY / options.folder).mkdir(parents=True, exist_ok=True)  # SLURM does not make it, and loses the log
    for job in jobs:
        log = options.folder / f"{job.name}-{'%A_%a' if job.name.endswith('-shards') else '%j'}.log"
        command = ["sbatch", "--parsable", f"--job-name={job.name}", f"--output={log}", *job.options]
        command += [f"--time={options.time}"] if options.time is not None else []
        command += [f"--signal=TERM@{options.grace}"] if options.grace is not None else []
        if job.after:
            command.append(f"--dependency=afterok:{':'.join(ids[name] for name in job.after)}")
            command.append("--kill-on-invalid-dep=yes")  # or the job would wait forever for one that failed
        command += options.cpu_sbatch if job.template == "cpu" else options.sbatch
        command += [str(TEMPLATES / f"{job.template}.sbatch"), *job.command]
        if options.dry_run:
            print(shlex.join(command))
            continue
        with usage_errors(lambda _: "sbatch is not installed here; --dry-run prints the commands", FileNotFoundError):
            result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if result.returncode != 0:
            raise UsageError(f"sbatch refused {job.name}: {result.stderr.strip()}; jobs submitted before it remain")
        ids[job.name] = result.stdout.strip().split(";")[0]
        print(f"{job.name}: job {ids[job.name]}")


if __name__ == "__main__":
    main()
