"""Token counts equal the tokenizer's own, whatever the texts, batches and kind of tokenizer."""

import os
import random

import pyarrow.parquet as pq
import pytest
from helpers.tiny import make_tokenizer
from tokenizers import normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from redi.data.lengths import length_rules
from redi.data.lengths.length_rules import count_tokens

ASCII = "abSstTlL'.,-$/\\{}()0123456789"
CHARACTERS = [*ASCII, *"\u00e9\u4e2d\u221a\u0301\u017f\u0663\u1100\u1161\u00b2\u00b4", "\x1c"]
SPACES = [" "] * 12 + ["  ", "\n", "\n\n", "\t", "\r", "\u00a0", "\u2003", "\x85"]
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    weights = [70, 28, 2]
    return [
        "".join(rng.choice(kind) for kind in rng.choices([CHARACTERS, SPACES, SPECIAL], weights, k=rng.randint(0, 40)))
        for _ in range(number)
    ]


TEXTS = random_texts(300) + ["", " ", "a b", "12 345 6789", "e\u0301", "<|im_end|> 1<|im_end|>\n 2"]


def own_counts(tokenizer, texts: list[str]) -> list[int]:
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


@pytest.mark.parametrize("batch_characters", [1, 100, 1_000_000])
def test_equal_the_tokenizers_own(monkeypatch, batch_characters):
    monkeypatch.setattr(length_rules, "BATCH_CHARACTERS", batch_characters)
    tokenizer = make_tokenizer()
    assert count_tokens(tokenizer, iter(TEXTS)).tolist() == own_counts(tokenizer, TEXTS)
    assert count_tokens(tokenizer, []).tolist() == []


def test_equal_the_tokenizers_own_on_real_traces(gsm8k):
    table = pq.read_table(gsm8k, columns=["generations"])
    texts = [text for texts in table["generations"].to_pylist()[:100] for text in texts]
    tokenizer = make_tokenizer()
    assert count_tokens(tokenizer, texts).tolist() == own_counts(tokenizer, texts)


def test_normalizers_and_split_special_tokens_apply():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    composed = count_tokens(tokenizer, ["e\u0301"]).tolist()
    assert composed == own_counts(tokenizer, ["e\u0301"]) == own_counts(tokenizer, ["\u00e9"])
    (special,) = count_tokens(tokenizer, ["<|im_end|>"])
    tokenizer.split_special_tokens = True
    (split,) = count_tokens(tokenizer, ["<|im_end|>"])
    assert special == 1 < split


def test_the_tokens_of_a_bounded_number_of_characters_are_in_memory(monkeypatch):
    monkeypatch.setattr(length_rules, "BATCH_CHARACTERS", 10)
    sizes = []

    def count(tokenizer, texts):
        sizes.append([len(text) for text in texts])
        return [0] * len(texts)

    monkeypatch.setattr(length_rules, "_count", count)
    lengths = [3, 3, 3, 3, 12, 0, 9, 1, 5]
    assert len(count_tokens(make_tokenizer(), ["a" * length for length in lengths])) == len(lengths)
    assert sizes == [[3, 3, 3, 3], [12], [0, 9, 1], [5]]


def test_the_backend_may_use_threads_and_the_setting_is_restored(monkeypatch):
    """TOKENIZERS_PARALLELISM=false is for processes that fork; nothing forks while tokens are counted."""
    for before in ("false", None):
        if before is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM")
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
        with length_rules._all_cores():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
        assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_truncation_and_padding_of_the_tokenizer_file_do_not_apply():
    backend = make_tokenizer().backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert count_tokens(tokenizer, ["aaaaa", "a"]).tolist() == [5, 1]


def test_a_tokenizer_written_in_python():
    assert count_tokens(ByT5Tokenizer(), ["abc", "", "\u00e9"]).tolist() == [3, 0, 2]
