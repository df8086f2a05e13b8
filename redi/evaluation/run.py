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
from dataclasses import dataclass
from pathlib import Path

from redi.evaluation.benchmarks import SECOND_GOLDS, Benchmark, load_benchmarks, read_asked
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.generation.options import SamplingOptions, option_name, parse_shard, sampling_options
from redi.evaluation.generation.protocols import AMOUNT, changes, describe_protocol, protocol_file
from redi.runs.cli import positive_float
from redi.runs.errors import UsageError, usage_errors
from redi.runs.lock import lock_owner
from redi.runs.manifest import MANIFEST, read_manifest
from redi.runs.recipe import read_config

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Evaluation:
    """How each model is evaluated; with `shard`, its part of the problems is sampled, and nothing graded."""

    benchmarks: list[Benchmark]
    benchmark_folder: Path  # where second reference answers are looked up
    sampling: SamplingOptions
    shard: tuple[int, int] | None
    protocol: str | None  # its description, to be recorded
    limit: int | None  # problems of each benchmark
    whole_responses: bool


def run(options: argparse.Namespace) -> None:
    """Evaluates models, or the checkpoints of runs, as the command line of `evaluate.py run` says."""
    suffix = folder_suffix(options)

    def folder_of(model: str) -> Path:
        return answers_folder(model, suffix, options.output, is_recipe(options.model))

    if options.where:
        if options.every_checkpoint:
            raise UsageError("--where is for a model; remove --every-checkpoint or --watch")
        print("\n".join(str(folder_of(model)) for model in options.models))
        return
    evaluation = Evaluation(
        load_benchmarks(options.benchmark, options.benchmark_folder),
        options.benchmark_folder,
        sampling_options(options),
        parse_shard(options.shard),
        describe_protocol(options),
        options.limit,
        options.whole_responses,
    )
    for model in options.models:
        if options.every_checkpoint:
            evaluate_checkpoints(Path(model), evaluation, folder_of, suffix, options.watch)
        else:
            evaluate_model(model, folder_of(model), evaluation, is_usual=not suffix)


def is_recipe(target: str) -> bool:
    return (Path(target) / "config.yaml").is_file()


def find_models(target: str, output_dir: str | None = None) -> list[str]:
    """The models that a target means: folders as absolute paths, or a Hub id.

    A recipe folder means the run that it trained, in `output_dir` if not where its config.yaml says, or each finished
    point of its sweep. Anything else is a model itself.
    """
    config = Path(target) / "config.yaml"
    if not is_recipe(target):
        if output_dir is not None:
            raise UsageError(f"--output_dir {output_dir} is for a recipe folder, and {target} has no config.yaml")
        return [_absolute(target)]
    output_dir = output_dir or read_config(config).get("output_dir")
    if output_dir is None:
        raise UsageError(f"{config} sets no output_dir; pass --output_dir")
    points = [str(path.parent) for path in sorted(Path(output_dir).glob(f"*/{MANIFEST}"))]
    is_sweep = points and not (Path(output_dir) / MANIFEST).is_file()
    return [_absolute(path) for path in (points if is_sweep else [output_dir])]


def _absolute(path: str) -> str:
    return os.path.abspath(path) if Path(path).is_dir() else path


def usual_protocol(model: str, every_checkpoint: bool) -> str:
    """The protocol of a model if none is given, which adds nothing to the names of folders."""
    return "paper_intermediate" if every_checkpoint or _is_checkpoint(Path(model)) else "paper_final"


def _is_checkpoint(path: Path) -> bool:
    return path.name.startswith("checkpoint-")


def folder_suffix(options: argparse.Namespace) -> str:
    """What the protocol and the options that change the samples add to the names of folders."""
    protocol = protocol_file(options.protocol).stem
    parts = [] if protocol == options.usual_protocol else [protocol]
    for name, value in changes(options).items():
        if name not in AMOUNT:
            value = Path(value).stem if name == "chat_template" else value
            parts.append(f"{option_name(name).removeprefix('--')}-{value}")
    return "".join(f"_{part}" for part in parts)


def answers_folder(model: str, suffix: str, root: Path | None = None, from_recipe: bool = False) -> Path:
    """Where the answers of a model go; `root` gets evaluation/ and report/, wherever the model lies."""
    path = Path(model)
    run, name = path, path.name
    if _is_checkpoint(path):
        run, name = path.parent, f"{path.parent.name}_{path.name}"
    if not path.is_dir():
        name = model.replace("/", "_")
    if root is None:
        root = run.parent if path.is_dir() and (from_recipe or _belongs_here(run)) else Path("runs")
    return root / "evaluation" / f"{name}{suffix}"


def _belongs_here(run: Path) -> bool:
    """Whether a folder lies in the working folder or the repository, or was trained by this project."""
    if (run / MANIFEST).is_file() or any(run.resolve().is_relative_to(folder) for folder in (Path.cwd(), REPOSITORY)):
        return True
    from redi.runs.checkpoints import STARTED  # imports transformers

    return (run / STARTED).is_file()


def evaluate_model(model: str, folder: Path, evaluation: Evaluation, is_usual: bool) -> None:
    """Samples, grades and reports one model, and writes its scores into its model card.

    The card shows the scores of the usual protocol, and others only until it has those.
    """
    from redi.runs.model_card import CARD, SCORES, set_scores

    sample_and_grade(model, folder, evaluation)
    if evaluation.shard:
        return
    output = _report(folder.name, [folder])
    card = Path(model) / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if re.search(f"^{SCORES}", text, re.MULTILINE) and (is_usual or "Not evaluated yet" in text):
        set_scores(Path(model), (output / "table.md").read_text(encoding="utf-8"))


def evaluate_checkpoints(
    run: Path, evaluation: Evaluation, folder_of: Callable[[str], Path], suffix: str, watch: bool
) -> None:
    """Samples and grades each complete checkpoint of a run, and reports all of them after each.

    With `watch`, waits for further checkpoints until the run is finished, or has stopped before its end.
    """
    from redi.runs.checkpoints import STARTED, complete_checkpoints

    if not run.is_dir():
        raise UsageError(f"--every-checkpoint: {run} is not the folder of a run")
    seconds = _watch_seconds()
    done: dict[Path, Path] = {}  # checkpoint -> its answers
    while True:
        # After this look no checkpoint appears: the manifest is written last, and a run holds its lock until it ends.
        ended = (run / MANIFEST).is_file() or ((run / STARTED).is_file() and not lock_owner(run, inside=True))
        complete, incomplete = complete_checkpoints(run)
        new = [checkpoint for checkpoint in complete if checkpoint not in done]
        for checkpoint in new:
            folder = folder_of(str(checkpoint))
            sample_and_grade(str(checkpoint), folder, evaluation)
            done[checkpoint] = folder
            if not evaluation.shard:
                _report(f"{run.name}_checkpoints{suffix}", list(done.values()))
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


def _watch_seconds() -> float:
    """How long --watch waits between two looks: the environment variable WATCH_SECONDS, or a minute."""
    text = os.environ.get("WATCH_SECONDS", "60")
    with usage_errors(lambda error: f"WATCH_SECONDS={text}: {error}", argparse.ArgumentTypeError):
        return positive_float(text)


def sample_and_grade(model: str, folder: Path, evaluation: Evaluation) -> None:
    """Samples what is missing, and grades unless the grades are newer than the answers, and made in the same way."""
    from redi.evaluation.generation.generate import generate, generate_in_child
    from redi.evaluation.grading.grade_folder import grade_folder

    sample = generate_in_child if evaluation.sampling.backend == "vllm" else generate
    shard, protocol, limit = evaluation.shard, evaluation.protocol, evaluation.limit
    sample(model, evaluation.benchmarks, folder, evaluation.sampling, shard, protocol, limit)
    if shard:
        return
    graded, generations = folder / GRADED, folder / GENERATIONS
    grading = (read_manifest(folder) or {}).get("grading", {})
    is_new = graded.is_file() and graded.stat().st_mtime_ns > generations.stat().st_mtime_ns
    if not is_new or grading.get("whole_responses", False) != evaluation.whole_responses:
        second = _second_golds(folder, evaluation.benchmark_folder)
        whole = evaluation.whole_responses
        grade_folder(folder, [], evaluation.benchmark_folder, second_golds=second, whole_responses=whole)


def _second_golds(folder: Path, benchmark_folder: Path) -> list[str]:
    """The second reference answers that exist for the benchmarks of a folder."""
    asked = read_asked(folder / BENCHMARK)
    found = [name for name, first in SECOND_GOLDS.items() if first in asked]
    return [name for name in found if (benchmark_folder / f"{name}.jsonl").is_file()]


def _report(name: str, folders: list[Path]) -> Path:
    from redi.evaluation.reporting.report import report

    output = folders[0].parent.parent / "report" / name
    report(folders, output, [])
    print(f"report: {output / 'report.html'}")
    return output
