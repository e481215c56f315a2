"""The table of pages that `decode_pages` gets.

jobs = PageJobs.of(pages, constants, physical, absent, low, high, targets)
jobs.table[:, PageJob.take]             # elements of each page that are needed
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlaas4hep.io.rntuple.decode import PageJob, item_sizes
from mlaas4hep.io.rntuple.encodings import Code
from mlaas4hep.io.rntuple.page_lists import ClusterPages

MAX_RATIO = 50_000
"""Largest ratio of decompressed to stored bytes of a page: zstd stores 128 kB of one value in about 4 bytes."""

MAX_PAGE = 1 << 30
"""Largest number of bytes of a page; ROOT writes at most 1 MiB by default."""


class PageJobs(NamedTuple):
    """Pages to decode.

    Attributes:
        table: int64 (pages, 12), see `PageJob`. `at` is relative to the file; `span` is not set.
        cell: which column and cluster each page belongs to, column * clusters + cluster, int64 (pages,).
    """

    table: np.ndarray
    cell: np.ndarray

    @classmethod
    def of(
        cls,
        pages: ClusterPages,
        constants: np.ndarray,
        physical: np.ndarray,
        absent: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        targets: np.ndarray,
        items: np.ndarray,
    ) -> PageJobs:
        """Describe the pages with the elements low <= i < high of some columns in some clusters.

        Args:
            constants: code, bits, low and high of each stored column, int64 (stored columns, 4).
            physical: number of the stored column, int64 (columns, clusters), as all of the following.
            absent: number of elements before the first one that is stored, which are zeros.
            targets: first byte of the decoded elements.
            items: bytes per decoded element, int64 (columns, 1).
        """
        zeros = _zeros(constants, physical, np.minimum(high, absent) - low, targets)
        first = pages.first.T[physical, np.arange(physical.shape[1])]
        begin, end = np.maximum(low - absent, 0), np.maximum(high - absent, 0)
        origin = pages.ends[first]
        stored = _stored(pages, constants, physical, (origin + begin).ravel(), (origin + end).ravel())
        starts = pages.ends[stored.table[:, PageJob.span]] + stored.table[:, PageJob.skip]
        elements = starts - origin.ravel()[stored.cell] + (absent - low).ravel()[stored.cell]
        stored.table[:, PageJob.to] = (
            targets.ravel()[stored.cell] + elements * items.ravel()[stored.cell // physical.shape[1]]
        )
        return cls(np.concatenate([zeros.table, stored.table]), np.concatenate([zeros.cell, stored.cell]))

    @property
    def exceeds(self) -> np.ndarray:
        """Whether a page claims more bytes than it can contain, bool (pages,)."""
        table = self.table
        decoded = table[:, PageJob.elements] * table[:, PageJob.bits] // 8
        exceeds = (decoded > MAX_RATIO * table[:, PageJob.size]) | (decoded > MAX_PAGE)
        return np.asarray(exceeds & (table[:, PageJob.code] != Code.ZERO))


def _zeros(constants: np.ndarray, physical: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> PageJobs:
    """Describe elements that are not stored."""
    cell = np.flatnonzero(counts.ravel() > 0)
    table = np.zeros((len(cell), len(PageJob)), np.int64)
    table[:, PageJob.code] = Code.ZERO
    table[:, PageJob.bits] = 8 * item_sizes(*constants[physical.ravel()[cell], :2].T)
    table[:, PageJob.take] = table[:, PageJob.elements] = counts.ravel()[cell]
    table[:, PageJob.to] = targets.ravel()[cell]
    return PageJobs(table, cell)


def _stored(
    pages: ClusterPages, constants: np.ndarray, physical: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> PageJobs:
    """Describe the pages with the elements begin <= i < end, counted from the first element of `pages`; int64 (cells,).

    `span` is the index of the page; `to` is not set.
    """
    first = np.searchsorted(pages.ends[1:], begin, "right")
    counts = np.where(end > begin, np.searchsorted(pages.ends[1:], end, "left") + 1 - first, 0)
    cell = np.repeat(np.arange(len(begin)), counts)
    page = np.arange(len(cell)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    table = np.zeros((len(cell), len(PageJob)), np.int64)
    table[:, PageJob.span] = page
    table[:, PageJob.at] = pages.seek[page]
    table[:, PageJob.size] = pages.size[page]
    table[:, PageJob.checked] = pages.checked[page]
    table[:, PageJob.elements] = pages.elements[page]
    start = pages.ends[page]
    table[:, PageJob.skip] = skip = np.maximum(begin[cell] - start, 0)
    table[:, PageJob.take] = np.minimum(end[cell] - start, pages.elements[page]) - skip
    constant = constants[physical.ravel()[cell]]
    table[:, PageJob.code], table[:, PageJob.bits] = constant[:, 0], constant[:, 1]
    table[:, PageJob.low], table[:, PageJob.high] = constant[:, 2], constant[:, 3]
    return PageJobs(table, cell)
