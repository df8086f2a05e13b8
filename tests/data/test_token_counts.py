"""Token counts with shortcuts equal the tokenizer's own, for tokenizers that allow them and for those that do not."""

import random

import pytest
from helpers.tiny import make_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from redi.data.lengths import token_counts
from redi.data.lengths.token_counts import Shortcuts, TokenCounter

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
# https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{SUFFIX}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHARACTERS = [
    *"abSstTlL'.,-$/\\{}()0123456789",
    *"\u00e9\u4e2d\u221a\u0301\u017f\u0663\u1100\u1161\u00b2\u00b4",
    "\x1c",
]
SPACES = [" "] * 12 + ["  ", "\n", "\n\n", "\t", "\r", "\u00a0", "\u2003", "\x85"]
ALL, LOCAL, NONE = Shortcuts(True, "pattern", True), Shortcuts(True), Shortcuts(False)


def split(pattern):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    special = ["<|im_start|>", "<|im_end|>"]
    kinds = [CHARACTERS, CHARACTERS, SPACES, special]
    weights = [60, 10, 28, 2]
    return [
        "".join(rng.choice(kind) for kind in rng.choices(kinds, weights, k=rng.randint(0, 40))) for _ in range(number)
    ]


TEXTS = random_texts(1000) + ["", " ", "a b", " a  b ", "x\n y", "12 345 6789", "<|im_end|> 1<|im_end|>\n 2"]


@pytest.fixture(scope="module")
def backend():
    """A byte-level BPE with merges of all kinds, some of which would reach over spaces if pieces did."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(random_texts(300), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in ("<|im_start|>", "<|im_end|>")]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "expected"),
    [
        (split(QWEN), normalizers.NFC(), ALL),
        (split(LLAMA), None, Shortcuts(True, "pattern", False)),
        (split(O200K), normalizers.NFKC(), Shortcuts(True, "pattern", False)),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), None, Shortcuts(True, "pattern", False)),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None, LOCAL),
        (pre_tokenizers.WhitespaceSplit(), normalizers.NFD(), LOCAL),
        (split(QWEN), normalizers.Lowercase(), NONE),
        (split(r"\p{L}+ \p{L}+|\s+|\S"), None, NONE),  # two words are a piece
        (split(r"(?<=7) a|\s+|\S"), None, NONE),  # what comes before the space matters
        (split(r"^\s+a|\s+|\S"), None, NONE),  # the beginning of the text matters
        (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), None, NONE),
        (pre_tokenizers.Metaspace(), None, NONE),
    ],
)
def test_equal_the_tokenizers_own(backend, monkeypatch, pre_tokenizer, normalizer, expected):
    backend.pre_tokenizer, backend.normalizer = pre_tokenizer, normalizer
    shortcuts = Shortcuts.of(backend)
    assert (shortcuts.chunks, bool(shortcuts.pattern), shortcuts.digits) == (
        expected.chunks,
        bool(expected.pattern),
        expected.digits,
    )
    wanted = [len(encoding) for encoding in backend.encode_batch(TEXTS, add_special_tokens=False)]
    for limit in (300_000, 5):  # little is remembered
        monkeypatch.setattr(token_counts, "MAX_KNOWN", limit)
        assert token_counts._Counts(backend, shortcuts).of(TEXTS) == wanted


@pytest.mark.parametrize(
    "token", [AddedToken("to be"), AddedToken("<x>", rstrip=True), AddedToken("<x>", lstrip=True)]
)
def test_added_tokens_that_reach_over_spaces(backend, token):
    copy = Tokenizer.from_str(backend.to_str())
    copy.pre_tokenizer = split(QWEN)
    assert Shortcuts.of(copy).chunks
    copy.add_tokens([token])
    assert not Shortcuts.of(copy).chunks


def test_added_tokens_with_digits(backend):
    """Text between added tokens is split by itself, so `<7>` must not become `<0>`."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.pre_tokenizer = split(QWEN)
    copy.add_tokens([AddedToken("<7>")])
    shortcuts = Shortcuts.of(copy)
    assert shortcuts.chunks and not shortcuts.digits
    assert token_counts._Counts(copy, shortcuts).of(["a<7>b <8>"]) == [len(copy.encode("a<7>b <8>"))]


@pytest.mark.parametrize("use_worker", [False, True])
def test_batches_and_the_worker(monkeypatch, use_worker):
    tokenizer = make_tokenizer()
    wanted = [len(ids) for ids in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]]
    monkeypatch.setattr(token_counts, "SHORTCUTS_FROM", 2000)
    monkeypatch.setattr(token_counts, "WORKER_FROM", 4000)
    counter = TokenCounter(tokenizer, use_worker)
    batches = [TEXTS[i : i + 10] for i in range(0, len(TEXTS), 10)]
    assert counter.count(batches) == wanted
    if use_worker:
        counter._collect({}, timeout=60)  # until it has started
    assert counter._worker_is_ready == use_worker
    counter._counts = None if use_worker else counter._counts
    monkeypatch.setattr(token_counts, "SENT_AT_ONCE", len(batches))  # all to the worker
    assert counter.count(batches) == wanted
    assert counter.count([]) == []


def test_truncation_and_padding_of_the_file_are_left_out():
    backend = make_tokenizer().backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert TokenCounter(tokenizer).count([["aaaaa", "a"]]) == [5, 1]


def test_a_tokenizer_written_in_python():
    assert TokenCounter(ByT5Tokenizer()).count([["abc", ""], ["\u00e9"]]) == [3, 0, 2]
