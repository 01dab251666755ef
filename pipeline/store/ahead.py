"""Reading many small objects in order: at once where each takes long, one by one where none does.

A bucket or a network's disk takes milliseconds an object, which threads wait for together. What
lies in memory takes tens of microseconds, and handing it from thread to thread costs more.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

_READERS = 16
_TRIED = 16
_QUICK_S = 1e-3
"""An object; reading and parsing a record of 32 views takes a quarter of it."""

_AT_ONCE = 16
"""Objects that a thread reads one after the other."""

_AHEAD = 512
"""Objects read before the first of them is used up."""


def in_order(read: Callable[[T], S], items: Sequence[T]) -> Iterator[S]:
    """Yield what `read` returns for each item, in their order."""
    quickest_s = math.inf  # one of a few: others may have had to wait for a core
    for item in items[:_TRIED]:
        start = time.perf_counter()
        found = read(item)
        quickest_s = min(quickest_s, time.perf_counter() - start)
        yield found
    if quickest_s < _QUICK_S:
        yield from map(read, items[_TRIED:])
        return

    def read_some(first: int) -> list[S]:
        return [read(item) for item in items[first : first + _AT_ONCE]]

    with ThreadPoolExecutor(_READERS) as pool:
        for begin in range(_TRIED, len(items), _AHEAD):
            end = min(begin + _AHEAD, len(items))
            for some in pool.map(read_some, range(begin, end, _AT_ONCE)):
                yield from some
