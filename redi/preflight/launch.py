"""What a training script does: prints its help, checks a job before its launch, or trains. Imports little at first."""

import os
from collections.abc import Callable
from pathlib import Path

from redi.runs.cli import has_option
from redi.runs.errors import entry_point, usage_errors
from redi.runs.files import CONFIGS

NOT_INSTALLED = "is not installed here; run setup.sh first, and use the Python of its .venv"


def training_command(stage: str) -> Callable[..., None]:
    """The `main` of a stage's script.

    The first process of train.sh, which has `--tokenize_only` and the environment variable REDI_LAUNCH_FILE, checks
    the job and writes the options of `accelerate launch` to that file; see `check_launch`.
    """

    @entry_point
    def main(argv: list[str]) -> None:
        if {"--help", "-h"} & set(argv):
            print((CONFIGS / "help" / f"{stage}.txt").read_text(encoding="utf-8"), end="")
            return
        with usage_errors(lambda error: f"the package {error.name} {NOT_INSTALLED}", ModuleNotFoundError):
            from redi.training import train  # takes seconds
        if "REDI_LAUNCH_FILE" in os.environ and has_option(argv, "tokenize_only"):
            check_launch(stage, argv, Path(os.environ["REDI_LAUNCH_FILE"]))
        else:
            train(stage, argv)

    return main


def check_launch(stage: str, argv: list[str], file: Path) -> None:
    """Checks a job as preflight does, on the GPUs of this machine, and tokenises its rows.

    Writes the options of `accelerate launch` to `file`, one a line, unless the run is finished or only checks options.
    Prints notes alone. Memory is checked with `check_memory`.

    Raises:
        UsageError: the job would be wasted.
    """
    import torch

    from redi.job import NOTHING_COMPUTED, check_kernel, read_job
    from redi.preflight.check import check_inputs, check_plan
    from redi.preflight.lengths import tokenized_lengths
    from redi.preflight.recipe import Machine, to_recipe
    from redi.preflight.report import Report
    from redi.runs.checkpoints import is_finished_run
    from redi.runs.launch import gpu_memory, launch_options, num_processes
    from redi.training import train

    job = read_job(stage, argv, assumed=NOTHING_COMPUTED)  # any machine knows a finished run
    folder = Path(job.args.output_dir)
    if job.run.check_only or is_finished_run(folder, job.given, job.run.inputs, check_inputs=False):
        train(stage, argv)
        return
    job = read_job(stage, argv)
    gpus = 0 if job.args.use_cpu else torch.cuda.device_count()
    options = launch_options(job.run.accelerate_config, gpus)
    processes = max(1, num_processes(gpus))
    recipe = to_recipe(job, processes, on_cpu=gpus == 0, check_inputs=False)  # `train` does
    check_kernel(job.run.attn_implementation)
    report = Report(only_notes=True)
    if job.args.cpu_note:
        report.note(job.args.cpu_note)
    model, _ = check_inputs(report, recipe)
    report.refuse()
    rows, row_counts = train(stage, argv)
    lengths = tokenized_lengths(rows, row_counts, recipe.leaves_out_negatives)
    machine = Machine(processes, min(gpu_memory(), default=80.0) if job.run.check_memory else 80.0)
    check_plan(report, recipe, machine, model, lengths, with_memory=job.run.check_memory)
    report.refuse()
    file.write_text("".join(f"{option}\n" for option in options), encoding="utf-8")
