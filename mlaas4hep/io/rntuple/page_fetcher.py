"""Read pages from a file, and decode them.

    PageFetcher(byte_ranges).fetch(table, content, damaged)

Pages that are needed as a whole are decoded from the file directly into the result. Pages of which only some elements
are needed are decompressed once, and kept in a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.rntuple.decode import Outcome, PageJob, decode_pages
from mlaas4hep.io.rntuple.encodings import Code
from mlaas4hep.io.rntuple.envelopes import CHECKSUM
from mlaas4hep.io.rntuple.page_cache import PageCache, PageKey
from mlaas4hep.io.storage.byte_ranges import ByteRanges, merge_span_arrays

Damaged = Callable[[str, int], Exception]
"""Returns the error for a page, given the reason and its row in the table of jobs."""

_REASONS = {
    Outcome.WRONG_CHECKSUM: "the checksum of a page is wrong",
    Outcome.NOT_DECOMPRESSED: "a page is damaged, or its compression is not supported",
}


class PageFetcher:
    """Reads and decodes pages. It is thread-safe."""

    def __init__(self, ranges: ByteRanges, checks_pages: bool = True) -> None:
        """Read from `ranges`, which the caller closes; `checks_pages`: whether to verify the checksums of pages."""
        self._ranges = ranges
        self._checks_pages = checks_pages
        self._cache = PageCache()

    def fetch(self, table: np.ndarray, content: np.ndarray, damaged: Damaged) -> None:
        """Read pages, and write their elements to `content`, uint8.

        Args:
            table: int64 (pages, 12), see `PageJob`. `at` is relative to the file; `span` is not used.
        """
        is_partial = table[:, PageJob.take] < table[:, PageJob.elements]
        if not is_partial.any():
            self._decode(table.copy(), np.arange(len(table)), content, damaged)
            return
        whole, partial = np.flatnonzero(~is_partial), np.flatnonzero(is_partial)
        self._decode(table[whole], whole, content, damaged)
        self._decode_cached(table[partial], partial, content, damaged)

    def close(self) -> None:
        """Free the cached pages."""
        self._cache.clear()

    def _decode(self, jobs: np.ndarray, rows: np.ndarray, content: np.ndarray, damaged: Damaged) -> None:
        """Decode pages from the file. The positions in `jobs` are changed."""
        if not self._checks_pages:
            jobs[:, PageJob.checked] = 0
        is_stored = jobs[:, PageJob.size] > 0
        sizes = jobs[is_stored, PageJob.size] + CHECKSUM * jobs[is_stored, PageJob.checked]
        spans, span, at = merge_span_arrays(jobs[is_stored, PageJob.at], sizes)
        jobs[is_stored, PageJob.span], jobs[is_stored, PageJob.at] = span, at
        memory = self._ranges.read(spans) if spans else {}
        _raise_if_damaged(decode_pages([memory[one] for one in spans], jobs, content), rows, damaged)

    def _decode_cached(self, jobs: np.ndarray, rows: np.ndarray, content: np.ndarray, damaged: Damaged) -> None:
        """Decode pages through the cache, which decompresses them if necessary."""
        lengths = (jobs[:, PageJob.elements] * jobs[:, PageJob.bits] + 7) // 8
        places = zip(jobs[:, PageJob.at].tolist(), jobs[:, PageJob.size].tolist(), lengths.tolist(), strict=True)
        keys = [PageKey(*place) for place in places]
        index = {key: row for row, key in enumerate(keys)}

        def decompress(missing: Sequence[PageKey]) -> list[np.ndarray]:
            chosen = np.array([index[key] for key in missing])
            return self._decompress(jobs[chosen], lengths[chosen], rows[chosen], damaged)

        pages = self._cache.get(keys, decompress)
        here = jobs.copy()
        here[:, PageJob.span] = np.arange(len(keys))
        here[:, PageJob.at] = here[:, PageJob.checked] = 0
        here[:, PageJob.size] = lengths
        outcomes = decode_pages([pages[key].data for key in keys], here, content)
        _raise_if_damaged(outcomes, rows, damaged)

    def _decompress(
        self, jobs: np.ndarray, lengths: np.ndarray, rows: np.ndarray, damaged: Damaged
    ) -> list[np.ndarray]:
        """Return the decompressed bytes of pages."""
        ends = np.cumsum(lengths)
        jobs[:, PageJob.code], jobs[:, PageJob.bits], jobs[:, PageJob.skip] = Code.PLAIN, 8, 0
        jobs[:, PageJob.elements] = jobs[:, PageJob.take] = lengths
        jobs[:, PageJob.to] = ends - lengths
        content = BUFFER_POOL.empty((int(ends[-1]),), np.uint8)
        self._decode(jobs, rows, content, damaged)
        return np.split(content, ends[:-1])


def _raise_if_damaged(outcomes: np.ndarray, rows: np.ndarray, damaged: Damaged) -> None:
    if outcomes.any():
        failed = int(np.flatnonzero(outcomes)[0])
        raise damaged(_REASONS[Outcome(int(outcomes[failed]))], int(rows[failed]))
