"""Counting the tokens of many texts: the tokenizer's own counts, several times faster, and on two cores.

A tokenizer cuts a text into words, numbers and white space and tokenises each such piece alone, and texts consist of
the same pieces over and over. So what has been counted once is remembered, at two levels:

- chunks, which end where a piece always ends: before a space. They are cheap to find and nearly all are known.
- the pieces of a new chunk, found with the tokenizer's own regular expression.

Where every digit is a piece and all count the same, all are taken for zeros, so that numbers are known as well.

Whether a tokenizer is of a kind for which that gives its counts exactly is checked first. Otherwise whole chunks, or
whole texts, are tokenised.
"""

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from redi.runs.files import cpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters that finding the shortcuts (half a second) and starting a worker (the same) are worth it for.
SHORTCUTS_FROM, WORKER_FROM = 200_000, 1_000_000
SENT_AT_ONCE = 2  # batches that the worker has, so that it need not wait for the next
MAX_KNOWN = 300_000  # chunks or pieces remembered per process, about 50 MB each

# Chunks are cut before every space that follows a character which is not white space. What Python calls white space
# includes all that the tokenizers' libraries do.
CUT = re.compile(r" (?<=\S )")

LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD"}  # ASCII stays as it is, and a space composes with nothing before it
LOCAL_PRE_TOKENIZERS = {"ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"}
# What classes of characters hold of ASCII.
ASCII = {"L": "a-zA-Z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9"}
# That of `ByteLevel` itself, https://github.com/openai/gpt-2/blob/master/src/encoder.py
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Characters of every kind that pre-tokenizers tell apart, to try them out on.
KINDS = ["a", "S", "7", "'", ".", "-", "$"]
OTHER_KINDS = ["\u4e2d", "\u221a", "\u0301"]
SPACES = [" ", "\n", "\t"]
DIGITS = "0123456789"


@dataclass(frozen=True)
class Shortcuts:
    """How a tokenizer's counts can be had.

    Attributes:
        chunks: whether the counts of the chunks of a text add up to the text's.
        pattern: a regular expression for `re` whose matches are the pieces of ASCII text without added tokens; None
            where there is none.
        digits: whether any digit may stand for any other.
    """

    chunks: bool
    pattern: str | None = None
    digits: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Shortcuts":
        """Those of a tokenizer: what its parts allow, tried out on short texts of all kinds of characters."""
        normalizers = {part["type"] for part in _parts(tokenizer.normalizer, "normalizers")}
        splits = _parts(tokenizer.pre_tokenizer, "pretokenizers")
        kinds = {part["type"] for part in splits}
        added = tokenizer.get_added_tokens_decoder().values()
        local = (
            kinds
            and kinds <= LOCAL_PRE_TOKENIZERS
            and normalizers <= LOCAL_NORMALIZERS
            and not getattr(tokenizer.model, "dropout", None)
            and not any(token.lstrip or token.rstrip or re.search(r"\s", token.content) for token in added)
        )
        if not local or not _pieces_begin_at_spaces(tokenizer):
            return cls(False)
        pattern = _for_ascii(_pattern(splits) or "")
        digits = _digits_are_alike(tokenizer) and not any(set(token.content) & set(DIGITS) for token in added)
        return cls(True, pattern if pattern and _gives_pieces(pattern, tokenizer) else None, digits)


def _parts(whole: Normalizer | PreTokenizer | None, members: str) -> list[dict[str, Any]]:
    """The options of each part of a sequence (which may hold sequences), or of the one part, or none."""
    return [] if whole is None else _flat(json.loads(whole.__getstate__()), members)


def _flat(part: dict[str, Any], members: str) -> list[dict[str, Any]]:
    return [inner for member in part[members] for inner in _flat(member, members)] if members in part else [part]


def _pieces_begin_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the texts before and after a space are split alike together and alone, for all pairs of characters."""
    characters = [*KINDS, *OTHER_KINDS]
    lefts = [*characters, *map("".join, product([*characters, *SPACES], characters))]
    rights = [" ", *(f" {a}{b}" for a, b in product([*characters, *SPACES], repeat=2))]
    before, after = ([_pieces(tokenizer, text) for text in texts] for texts in (lefts, rights))
    return all(
        _pieces(tokenizer, left + right) == before[i] + after[j]
        for i, left in enumerate(lefts)
        for j, right in enumerate(rights)
    )


def _digits_are_alike(tokenizer: Tokenizer) -> bool:
    """Whether every digit is a piece, of as many tokens as any other, and which digit it is changes no other piece."""
    if len({len(tokenizer.model.tokenize(digit)) for digit in DIGITS}) > 1:
        return False
    neighbours = [*KINDS, *OTHER_KINDS, *SPACES, ""]
    for before, after in product(neighbours, repeat=2):
        splits = [_pieces(tokenizer, f"{before}{digit}7{after}") for digit in DIGITS]
        if any(len(piece) > 1 and set(piece) & set(DIGITS) for pieces in splits for piece in pieces):
            return False
        if len({tuple("0" if piece in DIGITS else piece for piece in pieces) for pieces in splits}) > 1:
            return False
    return True


def _pattern(splits: list[dict[str, Any]]) -> str | None:
    """The regular expression of a byte-level tokenizer that splits with one, such as GPT-2's, Llama 3's or Qwen's."""
    *first, last = splits
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not first and last["use_regex"]:
        return GPT2_PATTERN
    if len(first) == 1 and first[0]["type"] == "Split" and not last["use_regex"]:
        return first[0]["pattern"].get("Regex")
    return None


def _for_ascii(pattern: str) -> str | None:
    r"""The expression for `re`, which knows no classes like `\p{L}`; None where it has others than `ASCII`'s."""
    parts, in_set = [], False
    for part in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        in_set = part == "[" or (in_set and part != "]")
        if part.startswith("\\p{"):
            characters = ASCII.get(part[3:-1])
            if characters is None:
                return None
            part = characters if in_set else f"[{characters}]"
        parts.append(part)
    return "".join(parts)


def _gives_pieces(pattern: str, tokenizer: Tokenizer) -> bool:
    """Whether its matches are the tokenizer's pieces: of all ASCII characters, and of four of any kinds."""
    try:
        compiled = re.compile(pattern, re.ASCII)
    except re.error:  # not all that other libraries allow
        return False
    neighbours = [*KINDS, *SPACES, ""]
    texts = [f"{a}{chr(code)}{b}" for code in range(128) for a in neighbours for b in neighbours]
    texts += map("".join, product([*KINDS, *SPACES, "s", "l"], repeat=4))
    return compiled.groups == 0 and all(
        [_byte_level(piece) for piece in compiled.findall(text)] == _pieces(tokenizer, text) for text in texts
    )


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _byte_level(piece: str) -> str:
    """ASCII as byte-level models spell it: what is no visible character has a letter of its own."""
    return piece.translate(_SPELLING)


_SPELLING = {
    code: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(code))[0][0]
    for code in range(128)
}


class _PieceCounts(dict):
    """Piece of ASCII -> its number of tokens, found out when it is first asked for."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.model = tokenizer.model

    def __missing__(self, piece: str) -> int:
        if len(self) >= MAX_KNOWN:
            self.clear()
        self[piece] = count = len(self.model.tokenize(_byte_level(piece)))
        return count


class _ChunkCounts(dict):
    """Chunk without `prefix` -> the number of tokens of the whole chunk, found out when it is first asked for."""

    def __init__(self, prefix: str, tokenizer: Tokenizer, pieces: _PieceCounts, pattern: str | None):
        super().__init__()
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.pieces = pieces
        self.find_pieces = re.compile(pattern, re.ASCII).findall if pattern else None
        added = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        self.find_added = re.compile("|".join(added) or "(?!)").search

    def __missing__(self, key: str) -> int:
        if len(self) >= MAX_KNOWN:
            self.clear()
        chunk = self.prefix + key
        if self.find_pieces and chunk.isascii() and not self.find_added(chunk):
            count = sum(map(self.pieces.__getitem__, self.find_pieces(chunk)))
        else:
            count = len(self.tokenizer.encode(chunk, add_special_tokens=False))
        self[key] = count
        return count


class _Counts:
    """The numbers of tokens of texts, in this process."""

    def __init__(self, tokenizer: Tokenizer, shortcuts: Shortcuts):
        self.tokenizer = tokenizer
        self.shortcuts = shortcuts
        pieces = _PieceCounts(tokenizer)
        self.first, self.others = (
            _ChunkCounts(prefix, tokenizer, pieces, shortcuts.pattern).__getitem__ for prefix in ("", " ")
        )

    def of(self, texts: list[str]) -> list[int]:
        if not self.shortcuts.chunks:
            return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        if self.shortcuts.digits:
            texts = map(_only_zeros, texts)
        return [self._add_up(*CUT.split(text)) for text in texts]

    def _add_up(self, first: str, *others: str) -> int:
        return self.first(first) + sum(map(self.others, others))


def _only_zeros(text: str) -> str:
    for digit in DIGITS[1:]:
        text = text.replace(digit, "0")  # ten times as fast as `translate` where the text is not all ASCII
    return text


class TokenCounter:
    """Counts tokens, without those that the tokenizer would add around a text (as the chat template has its own).

    Args:
        tokenizer: used as it is now; it must not be changed afterwards.
        use_worker: whether a second process counts beside this one, once enough text has come to be worth its start
            and its memory, 300 MB and more. By default where there is a second core.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", use_worker: bool | None = None):
        self.tokenizer = tokenizer
        self._use_worker = cpus() > 1 if use_worker is None else use_worker
        self._num_characters = 0
        self._worker: Connection | None = None
        self._worker_is_ready = False
        self._sent: deque[int] = deque()  # the numbers of the batches that the worker has
        self._shortcuts = Shortcuts(chunks=False)
        if tokenizer.is_fast:
            self._backend = tokenizer.backend_tokenizer
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = tokenizer.split_special_tokens
            self._counts = _Counts(self._backend, self._shortcuts)

    def count(self, batches: Iterable[list[str]]) -> list[int]:
        """The number of tokens of each text, in order, whatever batches the texts come in."""
        if not self.tokenizer.is_fast:
            return [len(ids) for texts in batches for ids in self._encode(texts)]
        counts: dict[int, list[int]] = {}  # by the number of the batch
        for number, texts in enumerate(batches):
            self._prepare(sum(map(len, texts)))
            self._collect(counts)
            if self._worker_is_ready and len(self._sent) < SENT_AT_ONCE:
                self._worker.send(texts)
                self._sent.append(number)
            else:
                counts[number] = self._counts.of(texts)
        while self._sent:
            self._collect(counts, timeout=None)
        return [count for number in sorted(counts) for count in counts[number]]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _prepare(self, num_characters: int) -> None:
        """Takes the shortcuts, and starts the worker, once there is enough to count."""
        before, self._num_characters = self._num_characters, self._num_characters + num_characters
        if before < SHORTCUTS_FROM <= self._num_characters:
            self._shortcuts = Shortcuts.of(self._backend)
            self._counts = _Counts(self._backend, self._shortcuts)
        if before < WORKER_FROM <= self._num_characters and self._use_worker:
            self._worker = _start_worker()
            self._worker.send((self._backend.to_str(), self._backend.encode_special_tokens, self._shortcuts))

    def _collect(self, counts: dict[int, list[int]], timeout: float | None = 0) -> None:
        """Takes what the worker has sent; without a time-out, waits until there is something."""
        while self._worker is not None and self._worker.poll(timeout):
            if self._worker_is_ready:
                counts[self._sent.popleft()] = self._worker.recv()
            else:
                self._worker_is_ready = self._worker.recv()
            timeout = 0


def _start_worker() -> Connection:
    """Starts a process that runs `serve`, and returns this end of the pipe between them.

    It is no `multiprocessing.Process`, which would import all that the command imported.
    """
    ours, theirs = Pipe()
    with theirs:
        subprocess.Popen(
            [sys.executable, "-c", f"from redi.data.lengths.token_counts import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for the process that started it
        )
    return ours


def serve(pipe: int) -> None:
    """What a worker does until the other end of its pipe is gone.

    It receives a tokenizer with its shortcuts, says that it is ready, and then counts what it gets.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores are taken
    with Connection(pipe) as connection, suppress(EOFError):
        tokenizer, encode_special_tokens, shortcuts = connection.recv()
        backend = Tokenizer.from_str(tokenizer)
        backend.encode_special_tokens = encode_special_tokens
        counts = _Counts(backend, shortcuts)
        connection.send(True)
        while True:
            connection.send(counts.of(connection.recv()))
