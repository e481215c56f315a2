"""A cache of decompressed pages, of which a reader needs only a part at a time.

    pages = cache.get(keys, decompress)        # decompress(missing) -> one array per key

A page may contain the entries of many blocks. It is decompressed once, and kept while there is memory for it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Sequence
from threading import Condition, Lock
from typing import NamedTuple

import numpy as np

from mlaas4hep.machine.memory import available_memory

CACHE_BYTES = 512_000_000
"""Maximum bytes of decompressed pages of one file."""

MEMORY_FRACTION = 0.25
"""Fraction of the available memory that the pages of all open files may take."""

_BATCH_BYTES = 8_000_000
"""Decompressed bytes of the pages that a thread claims at a time, so that threads share the pages of a cluster."""


class PageKey(NamedTuple):
    """A page.

    Attributes:
        seek, size: its first byte in the file, and its stored bytes.
        num_bytes: its decompressed bytes.
    """

    seek: int
    size: int
    num_bytes: int


Decompress = Callable[[Sequence[PageKey]], Sequence[np.ndarray]]


class SharedBudget:
    """The memory that all caches of this process share."""

    def __init__(self, limit: int | None = None) -> None:
        """Allow `limit` bytes; None: MEMORY_FRACTION of the memory that is available at first use."""
        self._limit = limit
        self._bytes = 0
        self._released: deque[int] = deque()
        self._lock = Lock()

    def take(self, num_bytes: int) -> bool:
        """Reserve bytes; return whether there were enough."""
        with self._lock:
            if self._limit is None:
                self._limit = int(MEMORY_FRACTION * available_memory())
            while self._released:
                self._bytes -= self._released.popleft()
            if self._bytes + num_bytes > self._limit:
                return False
            self._bytes += num_bytes
            return True

    def release(self, num_bytes: int) -> None:
        """Return bytes to the budget. It takes no lock, because the garbage collector may call it at any moment."""
        self._released.append(num_bytes)


BUDGET = SharedBudget()


class PageCache:
    """Decompressed pages. It is thread-safe: no page is decompressed by two threads at a time."""

    def __init__(self, limit: int = CACHE_BYTES, budget: SharedBudget = BUDGET) -> None:
        """Keep up to `limit` bytes, if the budget allows it."""
        self._limit = limit
        self._budget = budget
        self._bytes = 0
        self._pages: OrderedDict[PageKey, np.ndarray] = OrderedDict()  # the least recently used first
        self._claimed: set[PageKey] = set()
        self._changed = Condition()

    def get(self, keys: Sequence[PageKey], decompress: Decompress) -> dict[PageKey, np.ndarray]:
        """Return decompressed pages; `decompress` returns the bytes of pages, and may raise any exception."""
        found: dict[PageKey, np.ndarray] = {}
        missing = needed = dict.fromkeys(keys)
        while missing:
            batch = self._claim(missing, found)
            if batch:
                self._decompress(batch, found, needed, decompress)
            missing = dict.fromkeys(key for key in missing if key not in found)
        return found

    def _claim(self, missing: Iterable[PageKey], found: dict[PageKey, np.ndarray]) -> list[PageKey]:
        """Collect cached pages, and claim pages that no thread is decompressing; wait if there are neither."""
        batch, size, has_found = [], 0, False
        with self._changed:
            while True:
                for key in missing:
                    if key in self._pages:
                        found[key] = self._pages[key]
                        self._pages.move_to_end(key)
                        has_found = True
                    elif key not in self._claimed and size < _BATCH_BYTES:
                        batch.append(key)
                        size += key.num_bytes
                if batch or has_found:
                    self._claimed.update(batch)
                    return batch
                self._changed.wait()

    def _decompress(
        self, batch: list[PageKey], found: dict[PageKey, np.ndarray], needed: Container[PageKey], decompress: Decompress
    ) -> None:
        """Decompress claimed pages, and add them to the cache."""
        pages: Sequence[np.ndarray] = ()
        try:
            pages = decompress(batch)
            found.update(zip(batch, pages, strict=True))
        finally:
            with self._changed:
                self._claimed.difference_update(batch)
                for key, page in zip(batch, pages, strict=False):
                    self._add(key, page, needed)
                self._changed.notify_all()

    def _add(self, key: PageKey, page: np.ndarray, needed: Container[PageKey]) -> None:
        """Add a page; drop the least recently used pages, but none that are needed now."""
        while self._bytes + key.num_bytes > self._limit or not self._budget.take(key.num_bytes):
            oldest = next(iter(self._pages), None)
            if oldest is None or oldest in needed:
                return
            self._drop(oldest)
        self._pages[key] = page
        self._bytes += key.num_bytes

    def _drop(self, key: PageKey) -> None:
        del self._pages[key]
        self._bytes -= key.num_bytes
        self._budget.release(key.num_bytes)

    def __del__(self) -> None:
        self._budget.release(self._bytes)

    def clear(self) -> None:
        """Drop all pages."""
        with self._changed:
            for key in list(self._pages):
                self._drop(key)
