"""Finds the benchmark questions that share text with a problem, by overlap of word n-grams as the original counts it.

Texts are compared in lower case with folded white space (`text.lower().split()`) and otherwise unchanged, so
punctuation and LaTeX are parts of their words. Two texts overlap if they share 8 consecutive words. Normalisation and
rule are those of decontaminate.py in https://github.com/huggingface/open-r1, which the paper's repository ships. A
question of fewer than 8 words has no such n-gram, so that rule never finds it (32 of MATH-500's 500). Here, a problem
of exactly the same words overlaps with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NGRAM_WORDS = 8


@dataclass(frozen=True)
class Question:
    """A question of a benchmark."""

    benchmark: str
    id: str | int
    text: str


class OverlapIndex:
    """The n-grams, of `num_words` words, of the questions of any number of benchmarks.

    Nearly all problems are decided without looking at their n-grams. A problem is cut into blocks of half an n-gram,
    so far apart that every n-gram holds exactly one block. If no block occurs in any question, no n-gram does. This
    reads a fifth as many tuples, in C.
    """

    def __init__(self, questions: Iterable[Question], num_words: int = NGRAM_WORDS):
        if num_words < 1:
            raise ValueError(f"num_words={num_words} must be at least 1")
        self.num_words = num_words
        self.questions = tuple(questions)
        self._block_words = max(1, num_words // 2)
        self._stride = num_words - self._block_words + 1
        self._blocks: set[tuple[str, ...]] = set()
        self._numbers_of: dict[tuple[str, ...], list[int]] = {}  # n-gram -> positions in `questions`
        for number, question in enumerate(self.questions):
            words = question.text.lower().split()
            self._blocks.update(_ngrams(words, self._block_words))
            # A question shorter than an n-gram is stored under all of its words; no n-gram has that length.
            for ngram in set(_ngrams(words, num_words)) if len(words) >= num_words else [tuple(words)]:
                self._numbers_of.setdefault(ngram, []).append(number)

    def is_short(self, question: Question) -> bool:
        """Whether the question has no n-gram, so only a problem of the same words overlaps with it."""
        return len(question.text.split()) < self.num_words

    def find(self, problem: str | None) -> dict[Question, str]:
        """The questions that a problem overlaps with, each with the first words they share, in lower case."""
        if not problem:
            return {}
        words = problem.lower().split()
        if len(words) < self.num_words:
            ngrams = [tuple(words)]
        else:
            blocks = zip(*(words[k :: self._stride] for k in range(self._block_words)), strict=False)
            ngrams = [] if self._blocks.isdisjoint(blocks) else _ngrams(words, self.num_words)
        first: dict[int, tuple[str, ...]] = {}
        for ngram in ngrams:
            for number in self._numbers_of.get(ngram, ()):
                first.setdefault(number, ngram)
        return {self.questions[number]: " ".join(ngram) for number, ngram in first.items()}


def _ngrams(words: list[str], num_words: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[k:] for k in range(num_words)), strict=False)
