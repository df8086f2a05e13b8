"""From a model, a run or a recipe to its report: where the answers go, then sampling, grading and reporting.

Answers of RUN go to RUN/../evaluation/NAME, those of its checkpoints to RUN/../evaluation/NAME_checkpoint-N. Reports
go to RUN/../report/NAME and NAME_checkpoints. Those of a Hub id, and of a model from elsewhere, go to runs/.

The name of a folder includes a protocol other than the usual one, and every option that changes the samples:
NAME_quick, NAME_temperature-1.0. It does not include benchmarks, --limit and the number of samples, since a folder can
gain more of each. So a quick look at a model does not stand in the way of its evaluation.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from redi.evaluation.benchmarks import SECOND_GOLDS, load_benchmarks, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.generation.options import AMOUNT, changes, protocol_file, sampling_options
from redi.runs.cli import positive_float
from redi.runs.errors import UsageError, usage_errors
from redi.runs.lock import lock_owner
from redi.runs.manifest import MANIFEST, read_manifest
from redi.runs.recipe import read_config

REPOSITORY = Path(__file__).parents[2]


def run(options: argparse.Namespace) -> None:
    """Evaluates models, or the checkpoints of runs, as the command line of `evaluate.py run` says."""
    suffix = folder_suffix(options)
    if options.where:
        if options.every_checkpoint:
            raise UsageError("--where is for a model; remove --every-checkpoint or --watch")
        print(*(answers_folder(model, suffix, options) for model in options.models), sep="\n")
        return
    benchmarks = load_benchmarks(options.benchmark, options.benchmark_folder)
    sampling = sampling_options(options)

    def evaluate(model: str) -> Path:
        """Samples what is missing, and grades it; with --shard only samples."""
        from redi.evaluation.generation.generate import generate, generate_in_child

        folder = answers_folder(model, suffix, options)
        sample = generate_in_child if sampling.backend == "vllm" else generate
        sample(model, benchmarks, folder, sampling)
        if not sampling.shard:
            grade(folder, options.benchmark_folder, options.whole_responses)
        return folder

    for model in options.models:
        if options.every_checkpoint:
            name = None if sampling.shard else f"{Path(model).name}_checkpoints{suffix}"
            evaluate_checkpoints(Path(model), evaluate, name, options.watch)
            continue
        folder = evaluate(model)
        if not sampling.shard:
            set_card(Path(model), report(folder.name, [folder]), is_usual=not suffix)


def find_models(target: str, output_dir: str | None = None) -> list[str]:
    """The models that a target means: folders as absolute paths, or a Hub id.

    A recipe folder means the run that it trained, in `output_dir` if not where its config.yaml says, or each finished
    point of its sweep. Anything else is a model itself.
    """
    config = Path(target) / "config.yaml"
    if not config.is_file():
        if output_dir is not None:
            raise UsageError(f"--output_dir {output_dir} is for a recipe folder, and {target} has no config.yaml")
        return [os.path.abspath(target) if Path(target).is_dir() else target]
    output_dir = output_dir or read_config(config).get("output_dir")
    if output_dir is None:
        raise UsageError(f"{config} sets no output_dir; pass --output_dir")
    if not Path(output_dir).is_dir():
        return [output_dir]
    run = os.path.abspath(output_dir)
    points = [str(path.parent) for path in sorted(Path(run).glob(f"*/{MANIFEST}"))]
    return points if points and not (Path(run) / MANIFEST).is_file() else [run]


def usual_protocol(model: str, every_checkpoint: bool) -> str:
    """The protocol of a model if none is given, which adds nothing to the names of folders."""
    return "paper_intermediate" if every_checkpoint or Path(model).name.startswith("checkpoint-") else "paper_final"


def folder_suffix(options: argparse.Namespace) -> str:
    """What the protocol and the options that change the samples add to the names of folders."""
    protocol, usual = protocol_file(options.protocol).stem, usual_protocol(options.models[0], options.every_checkpoint)
    parts = [] if protocol == usual else [protocol]
    for name, value in changes(options).items():
        if name not in AMOUNT:
            value = Path(value).stem if name == "chat_template" else value
            parts.append(f"{name.replace('_', '-')}-{value}")
    return "".join(f"_{part}" for part in parts)


def answers_folder(model: str, suffix: str, options: argparse.Namespace) -> Path:
    """Where the answers of a model go; --output gets evaluation/ and report/, wherever the model lies."""
    run, name, is_local = Path(model), Path(model).name, Path(model).is_dir()
    if name.startswith("checkpoint-"):
        run, name = run.parent, f"{run.parent.name}_{name}"
    is_own = is_local and ((Path(options.model) / "config.yaml").is_file() or _belongs_here(run))
    root = options.output or (run.parent if is_own else Path("runs"))
    return root / "evaluation" / f"{name if is_local else model.replace('/', '_')}{suffix}"


def _belongs_here(run: Path) -> bool:
    """Whether a folder lies in the working folder or the repository, or was trained by this project."""
    if (run / MANIFEST).is_file() or any(run.resolve().is_relative_to(folder) for folder in (Path.cwd(), REPOSITORY)):
        return True
    from redi.runs.checkpoints import STARTED  # imports transformers

    return (run / STARTED).is_file()


def set_card(model: Path, table: Path, is_usual: bool) -> None:
    """Writes the scores of a model into its card: those of the usual protocol, and others until it has those."""
    from redi.runs.model_card import CARD, SCORES, set_scores

    text = (model / CARD).read_text(encoding="utf-8") if (model / CARD).is_file() else ""
    if re.search(f"^{SCORES}", text, re.MULTILINE) and (is_usual or "Not evaluated yet" in text):
        set_scores(model, table.read_text(encoding="utf-8"))


def evaluate_checkpoints(run: Path, evaluate: Callable[[str], Path], report_name: str | None, watch: bool) -> None:
    """Evaluates each complete checkpoint of a run, and reports all of them after each, if the report has a name.

    With `watch`, waits for further checkpoints, WATCH_SECONDS (60) at a time, until the run has ended.
    """
    from redi.runs.checkpoints import STARTED, complete_checkpoints

    if not run.is_dir():
        raise UsageError(f"--every-checkpoint: {run} is not the folder of a run")
    text = os.environ.get("WATCH_SECONDS", "60")
    with usage_errors(lambda error: f"WATCH_SECONDS={text}: {error}", argparse.ArgumentTypeError):
        seconds = positive_float(text)
    done: dict[Path, Path] = {}  # checkpoint -> its answers
    while True:
        # After this look no checkpoint appears: the manifest is written last, and a run holds its lock until it ends.
        ended = (run / MANIFEST).is_file() or ((run / STARTED).is_file() and not lock_owner(run, inside=True))
        complete, incomplete = complete_checkpoints(run)
        new = [checkpoint for checkpoint in complete if checkpoint not in done]
        for checkpoint in new:
            done[checkpoint] = evaluate(str(checkpoint))
            if report_name:
                report(report_name, list(done.values()))
        if not watch or (ended and not new):
            break
        if not new:
            time.sleep(seconds)
    if watch and not (run / MANIFEST).is_file():
        print(f"note: the training of {run} stopped before its end", file=sys.stderr)
    if incomplete:
        print(f"note: skipped incomplete checkpoints: {', '.join(map(str, incomplete))}", file=sys.stderr)
    if not done:
        raise UsageError(f"{run} has no complete checkpoint")


def grade(folder: Path, benchmark_folder: Path, whole_responses: bool) -> None:
    """Grades unless the grades are newer than the answers, and made in the same way; by second golds if they exist."""
    from redi.evaluation.grading.grade_folder import grade_folder

    graded, generations = folder / GRADED, folder / GENERATIONS
    before = (read_manifest(folder) or {}).get("grading", {}).get("whole_responses", False)
    is_new = graded.is_file() and graded.stat().st_mtime_ns > generations.stat().st_mtime_ns
    if not is_new or before != whole_responses:
        asked = read_asked(folder / BENCHMARK)
        second = [name for name, first in SECOND_GOLDS.items() if first in asked]
        second = [name for name in second if (benchmark_folder / f"{name}.jsonl").is_file()]
        grade_folder(folder, [], benchmark_folder, second_golds=second, whole_responses=whole_responses)


def report(name: str, folders: list[Path]) -> Path:
    """Reports graded folders into report/NAME next to evaluation/; returns the table."""
    from redi.evaluation.reporting.report import report

    output = folders[0].parent.parent / "report" / name
    report(folders, output, [])
    print(f"report: {output / 'report.html'}")
    return output / "table.md"
