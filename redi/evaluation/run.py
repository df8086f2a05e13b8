"""From a model, a run or a recipe to its report: where the answers go, then sampling, grading and reporting.

Answers of RUN go to RUN/../evaluation/NAME, those of its checkpoints to RUN/../evaluation/NAME_checkpoint-N. Reports
go to RUN/../report/NAME and NAME_checkpoints. Those of a Hub id go to runs/.

The name of a folder includes a protocol other than the usual one, and every option that changes the samples:
NAME_quick, NAME_temperature-1.0. It does not include benchmarks and the number of samples, since a folder can gain
both. So a quick look at a model does not stand in the way of its evaluation.
"""

import argparse
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from redi.evaluation.benchmarks import SECOND_GOLDS, Benchmark, load_benchmarks
from redi.evaluation.files import BENCHMARK, GENERATIONS, GRADED
from redi.evaluation.generation.options import SamplingOptions, option_name, parse_shard, sampling_options
from redi.evaluation.generation.protocols import AMOUNT, changes, describe_protocol, protocol_file
from redi.runs.errors import UsageError
from redi.runs.jsonl import iter_jsonl
from redi.runs.manifest import MANIFEST
from redi.runs.recipe import read_config


@dataclass(frozen=True)
class Evaluation:
    """How each model is evaluated.

    Attributes:
        benchmarks: what is asked.
        benchmark_folder: where second reference answers are looked up.
        sampling: how to sample.
        shard: the part of the problems to sample; then nothing is graded.
        protocol: its description, to be recorded.
        suffix: what the options add to the names of folders.
    """

    benchmarks: list[Benchmark]
    benchmark_folder: Path
    sampling: SamplingOptions
    shard: tuple[int, int] | None
    protocol: str | None
    suffix: str


def run(options: argparse.Namespace) -> None:
    """Evaluates models, or the checkpoints of runs, as the command line of `evaluate.py run` says.

    Raises:
        UsageError: bad options, or a run without checkpoints.
    """
    suffix = folder_suffix(options)
    if options.where:
        if options.every_checkpoint:
            raise UsageError("--where is for a model; remove --every-checkpoint or --watch")
        print("\n".join(str(answers_folder(model, suffix)) for model in options.models))
        return
    evaluation = Evaluation(
        load_benchmarks(options.benchmark, options.benchmark_folder),
        options.benchmark_folder,
        sampling_options(options),
        parse_shard(options.shard),
        describe_protocol(options),
        suffix,
    )
    for model in options.models:
        if options.every_checkpoint:
            evaluate_checkpoints(Path(model), evaluation, options.watch)
        else:
            evaluate_model(model, evaluation)


def find_models(target: str, output_dir: str | None = None) -> list[str]:
    """The models that a target means: folders as absolute paths, or a Hub id.

    Args:
        target: a model folder, a checkpoint, a Hub id, or a recipe folder. A recipe means the run that it trained, or
            each finished point of its sweep.
        output_dir: where a recipe was trained, if not where its config.yaml says.

    Raises:
        UsageError: `output_dir` is given without a recipe, or neither of them says where a recipe was trained.
    """
    config = Path(target) / "config.yaml"
    if not config.is_file():
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


def answers_folder(model: str, suffix: str) -> Path:
    """Where the answers of a model go."""
    path = Path(model)
    if not path.is_dir():
        return Path("runs", "evaluation", f"{model.replace('/', '_')}{suffix}")
    if _is_checkpoint(path):
        return path.parent.parent / "evaluation" / f"{path.parent.name}_{path.name}{suffix}"
    return path.parent / "evaluation" / f"{path.name}{suffix}"


def evaluate_model(model: str, evaluation: Evaluation) -> None:
    """Samples, grades and reports one model, and writes its scores into its model card.

    The card shows the scores of the usual protocol, and others only until it has those.
    """
    from redi.runs.model_card import CARD, SCORES, set_scores

    folder = answers_folder(model, evaluation.suffix)
    sample_and_grade(model, folder, evaluation)
    if evaluation.shard:
        return
    output = _report(folder.name, [folder])
    card = Path(model) / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if re.search(f"^{SCORES}", text, re.MULTILINE) and (not evaluation.suffix or "Not evaluated yet" in text):
        set_scores(Path(model), (output / "table.md").read_text(encoding="utf-8"))


def evaluate_checkpoints(run: Path, evaluation: Evaluation, watch: bool) -> None:
    """Samples and grades each complete checkpoint of a run, and reports all of them after each.

    Args:
        run: folder of the run.
        evaluation: how to evaluate.
        watch: wait for further checkpoints until the run is finished.

    Raises:
        UsageError: there is no such folder, or it has no complete checkpoint.
    """
    if not run.is_dir():
        raise UsageError(f"--every-checkpoint: {run} is not the folder of a run")
    done: dict[Path, Path] = {}  # checkpoint -> its answers
    while True:
        finished = (run / MANIFEST).is_file()  # written last: no checkpoint appears after this look
        new = [checkpoint for checkpoint in complete_checkpoints(run) if checkpoint not in done]
        for checkpoint in new:
            folder = answers_folder(str(checkpoint), evaluation.suffix)
            sample_and_grade(str(checkpoint), folder, evaluation)
            done[checkpoint] = folder
            if not evaluation.shard:
                _report(f"{run.name}_checkpoints{evaluation.suffix}", list(done.values()))
        if not watch or (finished and not new):
            break
        if not new:
            time.sleep(float(os.environ.get("WATCH_SECONDS", "60")))
    if not done:
        raise UsageError(f"{run} has no complete checkpoint")


def complete_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, in order of their steps."""
    found = {
        int(match[1]): path
        for path in run.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and _is_complete(path)
    }
    return [path for _, path in sorted(found.items())]


def _is_complete(checkpoint: Path) -> bool:
    """Whether `trainer_state.json`, which the trainer writes last but not in one piece, can be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def sample_and_grade(model: str, folder: Path, evaluation: Evaluation) -> None:
    """Samples what is missing, and grades unless the grades are newer than the answers."""
    from redi.evaluation.generation.generate import generate, generate_in_child
    from redi.evaluation.grading.grade_folder import grade_folder

    sample = generate_in_child if evaluation.sampling.backend == "vllm" else generate
    sample(model, evaluation.benchmarks, folder, evaluation.sampling, evaluation.shard, evaluation.protocol)
    if evaluation.shard:
        return
    graded, generations = folder / GRADED, folder / GENERATIONS
    if not graded.is_file() or graded.stat().st_mtime_ns <= generations.stat().st_mtime_ns:
        second_golds = _second_golds(folder, evaluation.benchmark_folder)
        grade_folder(folder, [], evaluation.benchmark_folder, second_golds=second_golds)


def _second_golds(folder: Path, benchmark_folder: Path) -> list[str]:
    """The second reference answers that exist for the benchmarks of a folder."""
    asked = {row["benchmark"] for row in iter_jsonl(folder / BENCHMARK, ("benchmark",))}
    found = [name for name, first in SECOND_GOLDS.items() if first in asked]
    return [name for name in found if (benchmark_folder / f"{name}.jsonl").is_file()]


def _report(name: str, folders: list[Path]) -> Path:
    from redi.evaluation.reporting.report import report

    output = folders[0].parent.parent / "report" / name
    report(folders, output, [])
    print(f"report: {output / 'report.html'}")
    return output
