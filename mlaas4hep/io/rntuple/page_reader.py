"""Read ranges of entries from the pages of an RNTuple.

    PageReader(ranges, schema, clusters).read([StoredColumn(3, parent=2, factor=1), ...], 0, 12_000)

The pages that contain the entries are read with few requests, and decoded in one call, directly into the result. If
whole clusters are read, the page lists give the number of items of the lists in each cluster. Otherwise, the offsets
of the lists are decoded before their items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.rntuple.decode import PageJob, item_sizes, join_offsets
from mlaas4hep.io.rntuple.encodings import Encoding
from mlaas4hep.io.rntuple.leaves import StoredColumn
from mlaas4hep.io.rntuple.page_fetcher import Damaged, PageFetcher
from mlaas4hep.io.rntuple.page_jobs import PageJobs
from mlaas4hep.io.rntuple.page_lists import ClusterPages, Clusters
from mlaas4hep.io.rntuple.records import Schema
from mlaas4hep.io.storage.byte_ranges import ByteRanges

MAX_ABSENT = 1 << 24
"""Largest number of elements per cluster that are zero because a field was added later."""


class DamagedPages(Exception):
    """Pages are damaged.

    Attributes:
        column: the stored column.
        cluster: index of the cluster.
    """

    def __init__(self, reason: str, column: StoredColumn, cluster: int) -> None:
        super().__init__(reason)
        self.column = column
        self.cluster = cluster


class _Selection:
    """The clusters that overlap with a range of entries.

    Attributes:
        first: index of the first cluster.
        edges: first entry of each cluster, and end of the last one, int64 (clusters + 1,).
        pages: the pages of the clusters.
        stored: number of elements of each column, int64 (columns, clusters).
        ranges: first item and end of the required lists, int64 (clusters, 2), by the column with their offsets; -1:
            entries.
        is_whole: whether whole clusters are read.
    """

    def __init__(self, clusters: Clusters, start: int, stop: int) -> None:
        edges = clusters.edge_array
        self.first = int(np.searchsorted(edges, start, "right")) - 1
        end = int(np.searchsorted(edges, stop, "left"))
        self.edges = edges[self.first : end + 1]
        self.pages: ClusterPages = clusters.pages(self.first, end)
        self.stored = self.pages.num_elements().T
        low, high = np.maximum(start, self.edges[:-1]), np.minimum(stop, self.edges[1:])
        self.ranges = {-1: np.stack([low, high], axis=-1) - self.edges[:-1, None]}
        self.is_whole = bool(start == self.edges[0] and stop == self.edges[-1])

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.edges) - 1


class _Request(NamedTuple):
    """Columns to read, and the ranges of their elements in each cluster; int64 (columns, clusters).

    Attributes:
        columns: the stored columns.
        physical: number of the column that represents it in each cluster.
        absent: number of elements before the first stored one.
        low, high: first element and end.
        is_index: whether a column contains offsets, bool (columns,).
        follows: whether the first element is the end of the list before the first one, bool (columns,).
    """

    columns: Sequence[StoredColumn]
    physical: np.ndarray
    absent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    is_index: np.ndarray
    follows: np.ndarray

    def damaged(self, reason: str, cell: int, selection: _Selection) -> DamagedPages:
        """Return the error for the pages of a column in a cluster, column * clusters + cluster."""
        row, cluster = divmod(cell, selection.count)
        return DamagedPages(reason, self.columns[row], selection.first + cluster)


class PageReader:
    """Reads ranges of entries from pages. It is thread-safe."""

    def __init__(self, ranges: ByteRanges, schema: Schema, clusters: Clusters, checks_pages: bool = True) -> None:
        """Read from `ranges`, which the caller closes; `checks_pages`: whether to verify the checksums of pages."""
        self._fetcher = PageFetcher(ranges, checks_pages)
        self._clusters = clusters
        self._columns = schema.columns
        constants = [_constants(column.encoding) for column in schema.columns]
        self._constants = np.array(constants, np.int64).reshape(-1, 4)
        self._items = item_sizes(self._constants[:, 0], self._constants[:, 1])
        self._types = np.array([column.encoding.dtype.num if column.encoding else -1 for column in schema.columns])
        self._alternatives = _alternatives(schema)

    def read(self, columns: Sequence[StoredColumn], start: int, stop: int) -> dict[StoredColumn, np.ndarray]:
        """Return the elements of stored columns for the entries start <= i < stop, at least one.

        Returns:
            Numbers (elements,), or offsets of lists, int64 (lists + 1,), starting at 0.

        Raises:
            DamagedPages: pages are damaged, or a column does not have as many elements as it should have.
            OSError: the file cannot be read.
        """
        selection = _Selection(self._clusters, start, stop)
        found: dict[StoredColumn, np.ndarray] = {}
        pending = list(dict.fromkeys(columns))
        while pending:
            ready = [one for one in pending if selection.is_whole or one.parent in selection.ranges]
            pending = [] if selection.is_whole else [one for one in pending if one.parent not in selection.ranges]
            request = self._request(ready, selection)
            found.update(self._read(request, selection))
            if selection.is_whole:
                _check_lists(request, selection)
        return found

    def close(self) -> None:
        """Free the decoded pages that are kept."""
        self._fetcher.close()

    def num_bytes(self, columns: Sequence[StoredColumn]) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoded bytes of some columns, and of one page of each of them, per cluster; int64 (clusters,)."""
        if len(self._clusters.edges) < 2 or not columns:
            none = np.zeros(len(self._clusters.edges) - 1, np.int64)
            return none, none
        selection = _Selection(self._clusters, 0, self._clusters.edges[-1])
        physical = self._physical(columns, selection)
        cells = np.arange(selection.count)
        items = self._items[[[column.number] for column in columns]]
        decoded = selection.stored[physical, cells] * items
        pages = np.maximum(selection.pages.counts.T[physical, cells], 1)
        return decoded.sum(axis=0), (decoded // pages).sum(axis=0)

    def _physical(self, columns: Sequence[StoredColumn], selection: _Selection) -> np.ndarray:
        """Return the number of the column that each cluster stores, int64 (columns, clusters)."""
        physical = np.empty((len(columns), selection.count), np.int64)
        physical.T[:] = [column.number for column in columns]
        clusters = np.arange(selection.count)
        for row, column in enumerate(columns):
            for other in self._alternatives.get(column.number, ()):
                is_suppressed = selection.pages.counts[clusters, physical[row]] < 0
                physical[row, is_suppressed] = other
        return physical

    def _request(self, columns: Sequence[StoredColumn], selection: _Selection) -> _Request:
        """Return the ranges of elements to read."""
        physical = self._physical(columns, selection)
        stored = selection.stored[physical, np.arange(selection.count)]
        absent, low, high = np.zeros_like(stored), np.zeros_like(stored), stored.copy()
        factors = np.array([column.factor for column in columns], np.int64)
        is_top = np.array([column.parent < 0 for column in columns])
        absent[is_top] = (np.diff(selection.edges) * factors[:, None] - stored)[is_top]
        known = [row for row, column in enumerate(columns) if column.parent in selection.ranges]
        if known:
            spans = np.stack([selection.ranges[columns[row].parent] for row in known]) * factors[known, None, None]
            low[known], high[known] = spans[:, :, 0], spans[:, :, 1]
        is_deferred = np.array([[self._columns[column.number].is_deferred] for column in columns])
        is_index = self._is_index(physical[:, 0])
        follows = is_index & (low[:, 0] > 0)
        low[:, 0] -= follows
        request = _Request(columns, physical, absent, low, high, is_index, follows)
        invalid = (absent < 0) | ((absent > 0) & ~is_deferred) | (absent > MAX_ABSENT) | (high - absent > stored)
        if invalid.any():
            cell = int(np.flatnonzero(invalid)[0])
            needed = (np.diff(selection.edges) * factors[:, None] if is_top[cell // selection.count] else high).flat[
                cell
            ]
            raise request.damaged(f"its pages have {stored.flat[cell]} elements instead of {needed}", cell, selection)
        return request

    def _is_index(self, numbers: np.ndarray) -> np.ndarray:
        """Return whether columns contain offsets, bool (columns,)."""
        return np.array([(encoding := self._columns[n].encoding) is not None and encoding.is_index for n in numbers])

    def _dtype(self, number: int) -> np.dtype[Any]:
        encoding = self._columns[number].encoding
        assert encoding is not None
        return encoding.dtype

    def _read(self, request: _Request, selection: _Selection) -> Iterator[tuple[StoredColumn, np.ndarray]]:
        """Yield the elements of columns."""
        items = self._items[[column.number for column in request.columns]]
        gaps = request.is_index & ~request.follows  # the end of the list before the first one is 0
        counts = request.high - request.low
        totals = counts.sum(axis=1) + gaps
        sizes = (totals * items + 7) // 8 * 8
        positions = np.cumsum(sizes) - sizes
        before = np.cumsum(counts, axis=1) - counts + gaps[:, None]
        jobs = PageJobs.of(
            selection.pages,
            self._constants,
            *(request.physical, request.absent, request.low, request.high),
            positions[:, None] + before * items[:, None],
            items[:, None],
        )
        if exceeding := np.flatnonzero(jobs.exceeds).tolist():
            size, count = jobs.table[exceeding[0], [PageJob.size, PageJob.elements]].tolist()
            reason = f"a page of {size} bytes cannot have {count} elements"
            raise request.damaged(reason, int(jobs.cell[exceeding[0]]), selection)
        content = BUFFER_POOL.empty((int(sizes.sum()),), np.uint8)
        self._decode(jobs, request, selection, content)
        offsets = content.view(np.int64)
        offsets[positions[gaps] // 8] = 0
        self._join(request, selection, offsets, positions // 8)
        for column, position, total in zip(request.columns, positions.tolist(), totals.tolist(), strict=True):
            yield column, np.ndarray((total,), self._dtype(column.number), content, position)

    def _join(self, request: _Request, selection: _Selection, offsets: np.ndarray, positions: np.ndarray) -> None:
        """Join the offsets of the clusters, and add the ranges of the items of lists to the selection."""
        rows = np.flatnonzero(request.is_index)
        if not len(rows):
            return
        edges = np.zeros((len(rows), selection.count + 1), np.int64)
        np.cumsum((request.high - request.low)[rows], axis=1, out=edges[:, 1:])
        edges[:, 1:] -= request.follows[rows, None]
        ranges = np.zeros((len(rows), selection.count, 2), np.int64)
        damaged = join_offsets(offsets, positions[rows], edges, ranges)
        if damaged >= 0:
            raise request.damaged("its lists are out of order", int(rows[damaged]) * selection.count, selection)
        for row, items in zip(rows.tolist(), ranges, strict=True):
            selection.ranges[request.columns[row].number] = items

    def _decode(self, jobs: PageJobs, request: _Request, selection: _Selection, content: np.ndarray) -> None:
        """Read and decode elements."""

        def damaged(reason: str, row: int) -> DamagedPages:
            return request.damaged(reason, int(jobs.cell[row]), selection)

        primary = np.array([column.number for column in request.columns], np.int64)
        differs = (self._types[request.physical] != self._types[primary, None]).ravel()[jobs.cell]
        if not differs.any():
            self._fetcher.fetch(jobs.table, content, damaged)
            return
        same, other = np.flatnonzero(~differs), np.flatnonzero(differs)
        self._fetcher.fetch(jobs.table[same], content, lambda reason, row: damaged(reason, int(same[row])))
        places = list(
            zip(primary[jobs.cell[other] // selection.count], request.physical.ravel()[jobs.cell[other]], strict=True)
        )
        self._convert(jobs.table[other], places, content, lambda reason, row: damaged(reason, int(other[row])))

    def _convert(self, table: np.ndarray, places: list[tuple[int, int]], content: np.ndarray, damaged: Damaged) -> None:
        """Decode pages whose type differs from that of the result; `places`: columns of the result and of the pages."""
        jobs = table.copy()
        sizes = (table[:, PageJob.take] * self._items[[stored for _, stored in places]] + 7) // 8 * 8
        jobs[:, PageJob.to] = np.cumsum(sizes) - sizes
        decoded = BUFFER_POOL.empty((int(sizes.sum()),), np.uint8)
        self._fetcher.fetch(jobs, decoded, damaged)
        for (result, stored), count, source, target in zip(
            places,
            *(column.tolist() for column in (table[:, PageJob.take], jobs[:, PageJob.to], table[:, PageJob.to])),
            strict=True,
        ):
            numbers = np.ndarray((count,), self._dtype(stored), decoded, source)
            np.ndarray((count,), self._dtype(result), content, target)[:] = numbers


def _check_lists(request: _Request, selection: _Selection) -> None:
    """Raise DamagedPages if the number of items of the lists differs from that of their pages in a cluster."""
    for row, column in enumerate(request.columns):
        if column.parent >= 0:
            items = selection.ranges[column.parent]
            differs = items[:, 1] * column.factor != request.high[row]
            if differs.any():
                cell = row * selection.count + int(np.flatnonzero(differs)[0])
                raise request.damaged("its pages do not have as many elements as its lists", cell, selection)


def _constants(encoding: Encoding | None) -> tuple[int, int, int, int]:
    """Return code, bits, and the bytes of low and high as integers."""
    if encoding is None:
        return 0, 8, 0, 0
    low, high = np.array([encoding.low, encoding.high]).view(np.int64).tolist()
    return int(encoding.code), encoding.bits, low, high


def _alternatives(schema: Schema) -> dict[int, list[int]]:
    """Return the columns of further representations, by the column of the first one."""
    by_place: dict[tuple[int, int], list[int]] = {}
    seen: dict[tuple[int, int], int] = {}
    for number, column in enumerate(schema.columns):
        owner = column.field, column.representation
        place = seen[owner] = seen.get(owner, -1) + 1
        by_place.setdefault((column.field, place), []).append(number)
    return {first: others for first, *others in by_place.values() if others}
