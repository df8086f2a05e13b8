"""Samples traces of a teacher for the problems of a corpus: the first step of REDI in a new domain.

python data_preprocess/sample_teacher.py --model TEACHER --input problems.jsonl --output data/traces --n 4

The input has `problem` and `answer`; traces that it has already are kept. The samples are in DIR.samples, so a stopped
run resumes, and a larger --n or more problems add to them. Next is verify.py.
"""

from dataclasses import asdict
from pathlib import Path

from redi.data.reading.rows import open_rows
from redi.data.teacher_traces import read_problems, refuse_other_output, write_traces
from redi.evaluation.generation.options import add_sampling_options, sampling_options
from redi.runs.dataset_options import rows_parser
from redi.runs.errors import entry_point
from redi.runs.files import check_output


@entry_point
def main(argv: list[str]) -> None:
    parser = rows_parser(__doc__.splitlines()[0], "folder for the corpus with the traces added")
    parser.add_argument("--model", required=True, metavar="PATH", help="the teacher: folder or Hub id")
    parser.add_argument("--samples", type=Path, metavar="DIR", help="where samples are kept; DIR.samples by default")
    add_sampling_options(parser)
    parser.set_defaults(n=4, prompt="bare")
    options = parser.parse_args(argv)
    samples = options.samples or options.output.with_name(f"{options.output.name}.samples")
    sampling = sampling_options(options)
    check_output(options.output, [options.source, options.model, samples])
    if not options.overwrite:
        refuse_other_output(options.output, samples)
    problems = read_problems(open_rows(options.source))
    from redi.evaluation.generation.generate import generate  # imports torch

    generate(options.model, [problems], samples, sampling)
    if sampling.shard is None:
        config = {"model": options.model} | {k: v for k, v in asdict(sampling).items() if v is not None}
        print(write_traces(options.source, samples, options.output, config))


if __name__ == "__main__":
    main()
