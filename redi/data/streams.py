"""Streams: the next items are prepared while the current one is in use, or collected into lists of bounded size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], number: int = 1) -> Iterator[Item]:
    """Yields the same items, while a thread prepares up to `number` of those that follow.

    This pays if making an item or using it releases Python's lock, as reading and writing parquet does.
    """
    end = object()
    with ThreadPoolExecutor(1) as thread:
        made = deque(thread.submit(next, items, end) for _ in range(number))
        while (item := made.popleft().result()) is not end:
            made.append(thread.submit(next, items, end))
            yield item


def chunks(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Cuts a stream, in order, into lists whose sizes just reach `limit`."""
    chunk: list[Item] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += size(item)
        if total >= limit:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk
