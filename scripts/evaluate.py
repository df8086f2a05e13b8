"""Evaluates models: sample answers, grade them, and compare models in a report.

python scripts/evaluate.py download
python scripts/evaluate.py run runs/redi/MODEL                   # sample, grade and report by the paper's protocol

or step by step:
python scripts/evaluate.py generate --model MODEL --protocol paper_final --output runs/eval/redi
python scripts/evaluate.py grade --input runs/eval/redi
python scripts/evaluate.py report --input runs/eval/sft runs/eval/redi --output runs/eval/table --baseline sft
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # --help works before setup.sh has installed redi

from redi.evaluation.benchmarks import download, load_benchmarks
from redi.evaluation.generation.options import sampling_options
from redi.evaluation.options import parse
from redi.evaluation.run import run
from redi.runs.errors import entry_point


@entry_point
def main(argv: list[str]) -> None:
    options = parse(argv, __doc__.splitlines()[0])
    if options.command == "run":
        run(options)
    elif options.command == "download":
        download(options.benchmark, options.benchmark_folder)
    elif options.command == "generate":
        sampling = sampling_options(options)
        benchmarks = load_benchmarks(options.benchmark, options.benchmark_folder)
        from redi.evaluation.generation.generate import generate  # imports torch

        generate(options.model, benchmarks, options.output, sampling)
    elif options.command == "grade":
        from redi.evaluation.grading.grade_folder import grade_folder

        folders = options.benchmark, options.benchmark_folder
        grade_folder(options.input, *folders, options.workers, options.second_golds, options.whole_responses)
    elif options.command == "report":
        from redi.evaluation.reporting.report import report  # imports matplotlib
        from redi.runs.model_card import set_scores

        limits = options.max_responses, options.show_disagreements
        report(options.input, options.output, options.baseline, *limits)
        if options.model_card:
            set_scores(options.model_card, (options.output / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
