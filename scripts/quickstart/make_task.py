"""Makes the quickstart's task: a raw corpus, a benchmark of unseen problems, and an untrained model.

python scripts/quickstart/make_task.py --output DIR [--seed 0] [--num-problems 6000] [--num-test 500]

DIR gets `raw/` (the schema of OpenR1-Math-Raw, verifier columns filled by the project's grader), `digits.jsonl` (the
benchmark) and `base/` (the model).
"""

import random
import time
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from task import CHAT_TEMPLATE, GENERATIONS_PER_PROBLEM, VOCABULARY, Problem, sample_problems, teacher_trace
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redi.evaluation.grading.verdict import grade_many
from redi.runs.cli import StrictParser, positive_int
from redi.runs.errors import entry_point
from redi.runs.files import new_folder
from redi.runs.jsonl import line
from redi.runs.manifest import is_finished, write_manifest


def raw_rows(problems: list[Problem], rng: random.Random) -> list[dict]:
    """One raw row per problem. The grader is the only verifier, so both verifier columns hold its verdict."""
    traces = [teacher_trace(problem, rng) for problem in problems for _ in range(GENERATIONS_PER_PROBLEM)]
    answers = [str(problem.answer) for problem in problems for _ in range(GENERATIONS_PER_PROBLEM)]
    grades = iter(zip(traces, grade_many(traces, answers), strict=True))
    rows = []
    for problem in problems:
        generations, verdicts = zip(*islice(grades, GENERATIONS_PER_PROBLEM), strict=True)
        correct = [grade.correct for grade in verdicts]
        row = {"problem": problem.text, "answer": str(problem.answer), "problem_is_valid": "Yes"}
        row |= {"source": "synthetic", "generations": generations}
        rows.append(row | {"correctness": {"llama_verification": correct, "math_verify_reparsed_answer": correct}})
    return rows


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: one token per word, and `<unk>` for anything outside the task's 36 words."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins words by a space
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **special)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 282k parameters.

    Not a Qwen2: for that model type, `AutoTokenizer` replaces the tokenizer's pre-tokenizer with Qwen2's own.
    """
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3}
    tokens = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    options = {"max_position_embeddings": 256, "attention_bias": True, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **tokens, **options))


@entry_point
def main(argv: list[str]) -> None:
    parser = StrictParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems, the teacher and the weights")
    parser.add_argument("--num-problems", type=positive_int, default=6000, help="training problems")
    parser.add_argument("--num-test", type=positive_int, default=500, help="problems of the benchmark, all unseen")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    options = parser.parse_args(argv)
    started = time.time()
    config = {"num_problems": options.num_problems, "num_test": options.num_test, "seed": options.seed}
    if not options.overwrite and is_finished(options.output, config, {}):
        print(f"{options.output}: already done")
        return
    with new_folder(options.output, options.overwrite) as folder:
        counts = write_task(folder, **config)
        write_manifest(folder, config=config, inputs={}, counts=counts, seed=options.seed, started=started)
    share = counts["correct_generations"] / counts["generations"]
    print(f"{counts['generations']} generations for {counts['problems']} problems, {share:.1%} of them correct")
    print(f"benchmark of {counts['test_problems']} unseen problems")
    print(f"untrained model of {counts['model_parameters']:,} parameters, vocabulary of {len(VOCABULARY)} words")


def write_task(folder: Path, num_problems: int, num_test: int, seed: int) -> dict[str, int]:
    """Writes the corpus, the benchmark and the model; returns their counts."""
    rng = random.Random(seed)
    problems = sample_problems(num_problems + num_test, rng)
    rows = raw_rows(problems[:num_problems], rng)
    (folder / "raw").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw" / "train-00000-of-00001.parquet")
    with (folder / "digits.jsonl").open("w", encoding="utf-8") as file:
        for i, problem in enumerate(problems[num_problems:]):
            file.write(line({"id": f"digits/{i}", "problem": problem.text, "answer": str(problem.answer)}))
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return {
        "problems": num_problems,
        "generations": num_problems * GENERATIONS_PER_PROBLEM,
        "correct_generations": sum(sum(row["correctness"]["llama_verification"]) for row in rows),
        "test_problems": num_test,
        "model_parameters": model.num_parameters(),
    }


if __name__ == "__main__":
    main()
