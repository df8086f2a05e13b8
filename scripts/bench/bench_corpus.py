"""Writes a synthetic corpus for `bench_data.py`, a batch at a time, and a tokenizer trained on its texts."""

import argparse
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 500
NUM_GENERATIONS = [1, 2, 2, 2, 3, 4]  # per problem, equally likely: 2.3 on average, as in OpenR1-Math-Raw
SOURCES = ["olympiads", "aops_forum", "amc_aime", "number_theory", "inequalities", "synthetic", "olympiads", "cn_k12"]
SIGMA = 0.7  # of the logarithm of a trace's length, like DeepSeek-R1's
SYLLABLES = "con der ing tri an gle sum the so wait ver num ber al ge bra pro ve let val ue re main check is of to"
FORMS = ["{}", "${}*{}", "{}/{}", "x^{}", "{}.", "({},", "\\frac{{{}}}{{{}}}", "{}x+{}", "\u221a{}", "= {}\n"]
CHUNK_CHARACTERS = 5.6
ENDS = [".\n\n", ",", ".", ":\n"]

# As Qwen2.5-Math renders a conversation, and as it splits text.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def positive(text: str) -> int:
    """An argparse type: an integer above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class Prose:
    """Mathematical prose with word frequencies by Zipf's law, in which new words never stop appearing.

    Of a hundred chunks between spaces, 65 are words, 22 numbers and formulas, 10 end a sentence, and 3 are numbers of
    six digits, nearly all of them new. In the first 1.5 MB, 13 % of the chunks are distinct (10 % in as much of a
    model's answers to GSM8K); in the next 16 MB, 6 % are new.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        syllables = rng.choice(SYLLABLES.split(), (10_000, 4)).tolist()
        words = ["".join(parts[: 1 + i // 2000]) for i, parts in enumerate(syllables)]  # the frequent ones are short
        numbers = (10 ** rng.uniform(0, 3, (20_000, 2))).astype(int).tolist()
        formulas = [FORMS[i % len(FORMS)].format(*pair) for i, pair in enumerate(numbers)]
        ends = [word + ENDS[i % len(ENDS)] for i, word in enumerate(words)]
        self.chunks = words + formulas + ends
        self.sizes = np.array([len(words), len(formulas), len(ends), 0])

    def texts(self, num_chunks: np.ndarray) -> list[str]:
        """Texts of so many chunks each, about `CHUNK_CHARACTERS` a chunk with the space before it."""
        kind = self.rng.choice(4, num_chunks.sum(), p=[0.65, 0.22, 0.1, 0.03])
        # The r-th most frequent has a share in proportion to 1 / (r + 2), the first being 0.
        rank = 2 * ((self.sizes[kind] + 2) / 2) ** self.rng.random(len(kind)) - 2
        start = np.cumsum(self.sizes) - self.sizes
        picked = [self.chunks[i] for i in np.minimum(start[kind] + rank.astype(int), len(self.chunks) - 1).tolist()]
        new = np.flatnonzero(kind == 3)
        for i, number in zip(new.tolist(), self.rng.integers(100_000, 1_000_000, len(new)).tolist(), strict=True):
            picked[i] = str(number)
        bounds = np.cumsum([0, *num_chunks]).tolist()
        return [" ".join(picked[start:end]) for start, end in pairwise(bounds)]


def make_benchmarks(folder: Path, sizes: dict[str, int], seed: int) -> None:
    """Writes benchmarks (`NAME.jsonl`) of made-up questions of 10 to 80 words in place of the real ones."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    prose = Prose(rng)
    for name, size in sizes.items():
        texts = prose.texts(rng.integers(10, 81, size))
        rows = [{"id": i, "problem": text, "answer": "1"} for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _problems(questions: list[list[str]], number: int, rng: np.random.Generator) -> list[str]:
    """Eight pieces of 2 to 6 words of benchmark questions each; one in 200 has a piece of 12 words, an overlap."""
    problems = []
    for which, seed in zip(rng.integers(len(questions), size=(number, 8)).tolist(), rng.random(number), strict=True):
        words: list[str] = []
        for k, i in enumerate(which):
            start = int(1000 * seed) * (k + 1) % len(questions[i])
            words += questions[i][start : start + (12 if seed > 0.995 else 2 + (i + k) % 5)]
        problems.append(" ".join(words))
    return problems


def _batches(num_rows: int, trace_characters: int, questions: list[str], seed: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(seed)
    prose, split = Prose(rng), [question.split() for question in questions]
    for first in range(0, num_rows, BATCH_ROWS):
        rows = min(BATCH_ROWS, num_rows - first)
        counts = rng.choice(NUM_GENERATIONS, rows)
        sizes = trace_characters / CHUNK_CHARACTERS * np.exp(SIGMA * rng.standard_normal(counts.sum()))
        texts = prose.texts(np.maximum(1, sizes.astype(int)))
        traces = [f"<think>\n{text}\n</think>\n\n\\boxed{{{len(text)}}}" for text in texts]
        ends = np.cumsum([0, *counts]).astype(np.int32)
        verdicts = ["llama_verification", "math_verify", "math_verify_reparsed_answer"]
        flags = [pa.ListArray.from_arrays(ends, pa.array(rng.random(len(traces)) < 0.6)) for _ in verdicts]
        solutions = prose.texts(rng.integers(30, 300, rows))
        answers = [str(number) for number in rng.integers(0, 1000, rows)]
        yield pa.table(
            {
                "problem": _problems(split, rows, rng),
                "solution": solutions,
                "answer": answers,
                "problem_type": rng.choice(["Algebra", "Geometry", "Number Theory", "Combinatorics"], rows).tolist(),
                "question_type": ["math-word-problem"] * rows,
                "problem_is_valid": rng.choice(["Yes", "No"], rows, p=[0.9, 0.1]).tolist(),
                "solution_is_valid": ["Yes"] * rows,
                "source": rng.choice(SOURCES, rows).tolist(),
                "synthetic": [False] * rows,
                "generations": pa.ListArray.from_arrays(ends, pa.array(traces)),
                "generations_count": counts.astype(np.int64),
                "correctness": pa.StructArray.from_arrays(flags, verdicts),
                "reparsed_answers": pa.ListArray.from_arrays(ends, pa.array(np.repeat(answers, counts).tolist())),
            }
        )


def make_corpus(path: Path, num_rows: int, trace_characters: int, questions: list[str], seed: int) -> dict[str, float]:
    """Writes a corpus with the columns of OpenR1-Math-Raw, in bounded memory.

    Args:
        path: of the parquet file.
        num_rows: problems.
        trace_characters: the median length of a trace; lengths are log-normal.
        questions: from which the problems take their pieces.
        seed: of everything.

    Returns:
        `rows`, `traces`, `text_mb` (UTF-8 text of problems and traces, 1e6 bytes) and `problem_mb`.
    """
    counts = {"rows": num_rows, "traces": 0, "text_mb": 0.0, "problem_mb": 0.0}
    with pq.ParquetWriter(path, next(_batches(1, 10, questions, seed)).schema) as writer:
        for table in _batches(num_rows, trace_characters, questions, seed):
            writer.write_table(table)
            counts["traces"] += len(table["generations"].combine_chunks().flatten())
            counts["problem_mb"] += table["problem"].nbytes / 1e6
            counts["text_mb"] += (table["problem"].nbytes + table["generations"].nbytes) / 1e6
    return counts


def make_tokenizer(folder: Path, corpus: Path, characters: int = 1_000_000) -> None:
    """Saves a byte-level BPE of 8,000 tokens that splits and renders as Qwen2.5-Math, trained on traces."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    table = pq.ParquetFile(corpus).read_row_group(0, columns=["generations"])
    texts = table["generations"].combine_chunks().flatten().to_pylist()
    texts = texts[: math.ceil(characters * len(texts) / sum(map(len, texts)))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False)
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
