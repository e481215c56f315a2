"""Decoded pages of which a reader needs only a part at a time.

    pages = cache.get(keys, stop, decode)        # decode(missing) -> one array per key

A page may have the entries of many blocks. It is decoded once, and kept until the blocks after it are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Condition
from typing import NamedTuple

import numpy as np

CACHE_BYTES = 512_000_000
"""Bytes of decoded pages that are kept."""

_BATCH_BYTES = 8_000_000
"""Decoded bytes of the pages that a thread takes on at a time, so that several threads share the pages of a cluster."""


class PageKey(NamedTuple):
    """A page.

    Attributes:
        column, seek: number of its column, and its first byte in the file.
        last: last entry of its cluster.
        num_bytes: decoded bytes.
    """

    column: int
    seek: int
    last: int
    num_bytes: int


Decode = Callable[[Sequence[PageKey]], Sequence[np.ndarray]]


class PageCache:
    """Decoded pages. It is thread-safe: no page is decoded by two threads at a time."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Keep up to `limit` bytes."""
        self._limit = limit
        self._bytes = 0
        self._pages: dict[PageKey, np.ndarray] = {}
        self._claimed: set[PageKey] = set()
        self._changed = Condition()

    def get(self, keys: Sequence[PageKey], start: int, decode: Decode) -> dict[PageKey, np.ndarray]:
        """Return decoded pages.

        Args:
            start: first entry that is read; pages of clusters before it are dropped first.
            decode: returns the elements of pages; it may raise any exception.
        """
        found: dict[PageKey, np.ndarray] = {}
        missing = list(dict.fromkeys(keys))
        while missing:
            batch = self._claim(missing, found)
            if batch:
                self._decode(batch, found, start, decode)
            missing = [key for key in missing if key not in found]
        return found

    def _claim(self, missing: Sequence[PageKey], found: dict[PageKey, np.ndarray]) -> list[PageKey]:
        """Collect the pages that are there, and claim some that no thread decodes; wait if there is neither."""
        batch, size, has_found = [], 0, False
        with self._changed:
            while True:
                for key in missing:
                    if key in self._pages:
                        found[key] = self._pages[key]
                        has_found = True
                    elif key not in self._claimed and size < _BATCH_BYTES:
                        batch.append(key)
                        size += key.num_bytes
                if batch or has_found:
                    self._claimed.update(batch)
                    return batch
                self._changed.wait()

    def _decode(self, batch: list[PageKey], found: dict[PageKey, np.ndarray], start: int, decode: Decode) -> None:
        pages: Sequence[np.ndarray] = ()
        try:
            pages = decode(batch)
            found.update(zip(batch, pages, strict=True))
        finally:
            with self._changed:
                self._claimed.difference_update(batch)
                for key, page in zip(batch, pages, strict=False):
                    self._add(key, page, start)
                self._changed.notify_all()

    def _add(self, key: PageKey, page: np.ndarray, start: int) -> None:
        if self._bytes + key.num_bytes > self._limit:
            for old in [old for old in self._pages if old.last < start or old.last > key.last]:
                del self._pages[old]
                self._bytes -= old.num_bytes
        if self._bytes + key.num_bytes <= self._limit:
            self._pages[key] = page
            self._bytes += key.num_bytes

    def clear(self) -> None:
        """Drop all pages."""
        with self._changed:
            self._pages.clear()
            self._bytes = 0
