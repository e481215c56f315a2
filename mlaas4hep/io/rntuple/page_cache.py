"""Decoded pages of which a reader needs only a part at a time.

    pages = cache.get(keys, decode)        # decode(missing) -> one array per key

A page may have the entries of many blocks. It is decoded once, and kept while there is room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
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
        num_bytes: decoded bytes.
    """

    column: int
    seek: int
    num_bytes: int


Decode = Callable[[Sequence[PageKey]], Sequence[np.ndarray]]


class PageCache:
    """Decoded pages. It is thread-safe: no page is decoded by two threads at a time."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Keep up to `limit` bytes."""
        self._limit = limit
        self._bytes = 0
        self._pages: OrderedDict[PageKey, np.ndarray] = OrderedDict()  # the least recently used first
        self._claimed: set[PageKey] = set()
        self._changed = Condition()

    def get(self, keys: Sequence[PageKey], decode: Decode) -> dict[PageKey, np.ndarray]:
        """Return decoded pages; `decode` returns the elements of pages, and may raise any exception."""
        found: dict[PageKey, np.ndarray] = {}
        missing = needed = dict.fromkeys(keys)
        while missing:
            batch = self._claim(missing, found)
            if batch:
                self._decode(batch, found, needed, decode)
            missing = dict.fromkeys(key for key in missing if key not in found)
        return found

    def _claim(self, missing: Iterable[PageKey], found: dict[PageKey, np.ndarray]) -> list[PageKey]:
        """Collect the pages that are there, and claim some that no thread decodes; wait if there is neither."""
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

    def _decode(
        self, batch: list[PageKey], found: dict[PageKey, np.ndarray], needed: Container[PageKey], decode: Decode
    ) -> None:
        """Decode claimed pages, and keep them."""
        pages: Sequence[np.ndarray] = ()
        try:
            pages = decode(batch)
            found.update(zip(batch, pages, strict=True))
        finally:
            with self._changed:
                self._claimed.difference_update(batch)
                for key, page in zip(batch, pages, strict=False):
                    self._add(key, page, needed)
                self._changed.notify_all()

    def _add(self, key: PageKey, page: np.ndarray, needed: Container[PageKey]) -> None:
        """Keep a page; drop others that were not used for long, but none that are needed now."""
        while self._pages and self._bytes + key.num_bytes > self._limit:
            oldest = next(iter(self._pages))
            if oldest in needed:
                return
            del self._pages[oldest]
            self._bytes -= oldest.num_bytes
        self._pages[key] = page
        self._bytes += key.num_bytes

    def clear(self) -> None:
        """Drop all pages."""
        with self._changed:
            self._pages.clear()
            self._bytes = 0
