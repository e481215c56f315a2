"""The clusters of an RNTuple, and the pages of each column in them.

    clusters = read_page_lists(contents, schema)
    clusters.edges                         # [0, 12_000, 24_000]
    clusters.pages(0, 1).counts            # pages of each column in the first cluster

The format: "Page List Envelope" in ROOT's RNTuple Binary Format Specification 1.0. Page lists are kept in their stored
form; the compiled loop (`scan_pages`) reads the parts of the clusters that are needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.rntuple.encodings import UnsupportedRNTuple
from mlaas4hep.io.rntuple.envelopes import CHECKSUM, I64, U64, DamagedMetadata, Frames
from mlaas4hep.io.rntuple.records import Schema, check_header

_ENTRIES = (1 << 56) - 1
"""Mask of the number of entries of a cluster; the bits above are flags."""

_SHORTEST_PAGE = 16  # bytes of the description of a page
_PAGE = struct.Struct("<iiq")  # number of elements, size, first byte
_LARGE_PAGE = struct.Struct("<iiqq")  # number of elements, type of the locator, size, first byte
_LARGE = 1  # type of locators with a 64-bit size


class ClusterPages(NamedTuple):
    """The pages of all columns in some clusters, cluster by cluster and column by column.

    Attributes:
        counts: number of pages of each column, int64 (clusters, columns); -1 if the column is suppressed.
        first: index of the first page of each column, int64 (clusters, columns).
        elements, size, seek: number of elements, bytes without checksum, and first byte of each page, int64 (pages,).
        checked: whether a checksum follows, bool (pages,).
        ends: number of elements in all pages up to each page, including it, int64 (pages + 1,), starting at 0.
    """

    counts: np.ndarray
    first: np.ndarray
    elements: np.ndarray
    size: np.ndarray
    seek: np.ndarray
    checked: np.ndarray
    ends: np.ndarray

    def num_elements(self) -> np.ndarray:
        """Number of elements of each column in each cluster, int64 (clusters, columns)."""
        counts = np.maximum(self.counts, 0)
        return np.asarray(self.ends[self.first + counts] - self.ends[self.first])


class _Cluster(NamedTuple):
    """A cluster: its entries, and the location of its list of columns."""

    start: int
    entries: int
    page_list: int
    at: int
    end: int


@dataclass(frozen=True)
class Clusters:
    """The clusters with at least one entry.

    Attributes:
        edges: first entry of each cluster, and the number of entries.
    """

    edges: list[int]
    _columns: int
    _lists: list[bytes]
    _places: np.ndarray  # int64 (clusters, 3): page list, first byte, end

    def pages(self, first: int, end: int) -> ClusterPages:
        """Return the pages of the clusters first <= i < end; raise DamagedMetadata if their list is damaged."""
        places = self._places[first:end]
        counts = np.zeros((end - first, self._columns), np.int64)
        room = int((places[:, 2] - places[:, 1]).sum()) // _SHORTEST_PAGE
        pages = np.empty((room, 3), np.int64)
        scan = _scan_pages if KERNEL is None else KERNEL.scan_pages
        try:
            used = scan(self._lists, np.ascontiguousarray(places), counts, pages)
        except (ValueError, struct.error, OverflowError) as error:
            raise DamagedMetadata("the list of its pages is damaged") from error
        elements, size, seek = pages[:used].T
        stored = np.maximum(counts, 0).ravel()
        starts = (np.cumsum(stored) - stored).reshape(counts.shape)
        ends = np.zeros(used + 1, np.int64)
        np.cumsum(np.abs(elements), out=ends[1:])
        return ClusterPages(counts, starts, np.abs(elements), size, seek, elements < 0, ends)

    @cached_property
    def edge_array(self) -> np.ndarray:
        """The edges, int64 (clusters + 1,)."""
        return np.array(self.edges, np.int64)


def read_page_lists(contents: Iterable[bytes], schema: Schema) -> Clusters:
    """Parse the entry ranges of all clusters from the page lists.

    Raises:
        DamagedMetadata: the entries of the clusters do not follow each other, or belong to another header.
        UnsupportedRNTuple: a cluster has only some of the columns.
    """
    lists = list(contents)
    clusters = [cluster for number, content in enumerate(lists) for cluster in _clusters(content, number, schema)]
    clusters = sorted((cluster for cluster in clusters if cluster.entries), key=itemgetter(0))
    edges = [0]
    for cluster in clusters:
        if cluster.start != edges[-1]:
            raise DamagedMetadata("its numbers of entries are damaged")
        edges.append(cluster.start + cluster.entries)
    places = np.array([cluster[2:] for cluster in clusters], np.int64).reshape(-1, 3)
    return Clusters(edges, len(schema.columns), lists, places)


def _clusters(content: bytes, number: int, schema: Schema) -> list[_Cluster]:
    frames = Frames(content, U64.size, len(content) - CHECKSUM)
    check_header(frames, schema)
    summaries = [summary.numbers(struct.Struct("<QQ")) for summary in frames.records()]
    columns, count = frames.items()
    if count != len(summaries):
        raise DamagedMetadata("the list of its clusters is damaged")
    clusters = []
    for start, entries in summaries:
        if entries > _ENTRIES:
            raise UnsupportedRNTuple("clusters with some of the columns")
        at = columns.at
        size = -columns.number(I64)
        if size < I64.size or at + size > columns.end:
            raise DamagedMetadata("the list of its pages is damaged")
        columns.at = at + size
        clusters.append(_Cluster(start, entries, number, at, at + size))
    return clusters


def _scan_pages(lists: list[bytes], clusters: np.ndarray, counts: np.ndarray, pages: np.ndarray) -> int:
    """As `scan_pages` of `kernel_pages.cpp`."""
    found: list[tuple[int, int, int]] = []
    for row, (number, at, end) in zip(counts, clusters.tolist(), strict=True):
        frames, columns = Frames(lists[number], at, end).items()
        if columns > len(row):
            raise ValueError("too many columns")
        for column in range(columns):
            part, count = frames.items()
            if count > len(pages) - len(found):
                raise ValueError("too many pages")
            found += (_scan_page(part) for _ in range(count))
            row[column] = -1 if part.number(I64) < 0 else count
            if row[column] < 0:
                del found[len(found) - count :]
    pages[: len(found)] = found if found else np.empty((0, 3))
    return len(found)


def _scan_page(frames: Frames) -> tuple[int, int, int]:
    at = frames.at
    elements, size, seek = frames.numbers(_PAGE)
    if size < 0:
        if -size >> 24 != _LARGE:
            raise ValueError("an unknown type of locator")
        frames.at = at
        elements, _, size, seek = frames.numbers(_LARGE_PAGE)
    if size < 0 or seek < 0:
        raise ValueError("a page at an invalid position")
    return elements, size, seek
