"""Reading of files with damaged clusters, whose events are skipped.

    skipping = SkippingReader(source, branches, stop, on_error="skip", damaged_clusters={})
    columns, entries = skipping.read(["MET_pt"], 0, 10_000)      # without the events in damaged clusters
    skipping.damaged                                              # {(40_000, 80_000): "cannot read branch ..."}

A cluster is skipped as a whole: if any column that a chunk needs cannot be read, none of its events is returned. A
cluster that is read in several pieces is therefore checked before its first piece is returned: all of it is read once,
piece by piece. The results of these checks are stored in `damaged_clusters`, so that they need not be repeated when the
file is opened again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from threading import Lock
from typing import cast

import numpy as np

from mlaas4hep.errors import FileUnreadable, Unreachable
from mlaas4hep.io import Columns, Source
from mlaas4hep.io.blocks import ClusterSize, split_into_blocks
from mlaas4hep.io.columns import concatenate_events, empty_columns

EntryRange = tuple[int, int]
"""The entries start <= i < stop."""

DamagedClusters = dict[EntryRange, str]
"""The reason why a cluster cannot be read, "" if it can, for each cluster that was checked."""


def count_skipped(damaged_clusters: DamagedClusters, stop: int) -> int:
    """Return the number of entries before `stop` in the damaged clusters that were found so far."""
    damaged = [cluster for cluster, reason in damaged_clusters.copy().items() if reason]
    return sum(max(min(end, stop) - begin, 0) for begin, end in damaged)


class SkippingReader:
    """Reader that can skip damaged clusters; thread-safe."""

    def __init__(
        self, source: Source, branches: Iterable[str], stop: int, on_error: str, damaged_clusters: DamagedClusters
    ) -> None:
        """Read from a source, which is not closed.

        Args:
            branches: branches that must be readable in a cluster.
            stop: end of the entries that are read or checked.
            on_error: what to do about damaged clusters, "raise" or "skip".
            damaged_clusters: results of earlier checks; new ones are added.
        """
        self._source = source
        self._branches = sorted(branches)
        self._skips = on_error == "skip"
        self._damaged_clusters = damaged_clusters
        self._lock = Lock()
        self._edges = np.array([edge for edge in source.boundaries if edge < stop] + [stop]) if self._skips else None

    @property
    def damaged(self) -> dict[EntryRange, str]:
        """The damaged clusters that were found so far, with the reasons."""
        return {cluster: reason for cluster, reason in sorted(self._damaged_clusters.copy().items()) if reason}

    def read(self, names: Sequence[str], start: int, stop: int) -> tuple[Columns, np.ndarray]:
        """Return columns of the entries start <= i < stop without damaged clusters, and the entries, int64 (events,).

        Raises:
            FileUnreadable: data are damaged, and `on_error` is "raise"; or they were damaged after their check.
            Unreachable: the file cannot be reached at present.
        """
        if not self._skips or start >= stop:
            return self._source.read(names, start, stop), np.arange(start, stop)
        clusters = self._clusters(start, stop)
        unknown = [cluster for cluster in clusters if cluster not in self._damaged_clusters]
        are_complete = start <= clusters[0][0] and clusters[-1][1] <= stop
        if unknown and are_complete and set(self._branches) <= set(names):
            try:
                columns = self._source.read(names, start, stop)
            except Unreachable:
                raise
            except FileUnreadable:
                pass  # the damaged cluster is found below
            else:
                self._damaged_clusters.update(dict.fromkeys(unknown, ""))
                return columns, np.arange(start, stop)
        spans = [span for span, reason in self.spans(start, stop) if not reason]
        if not spans:
            return empty_columns(self._source.columns, names), np.empty(0, np.int64)
        parts = [self._source.read(names, *span) for span in _joined(spans)]
        entries = np.concatenate([np.arange(*span) for span in spans])
        return {name: concatenate_events([part[name] for part in parts]) for name in names}, entries

    def read_counted(self, names: Iterable[str], start: int, stop: int) -> tuple[Columns, int]:
        """Return the same columns as `read`, and the number of events."""
        columns, entries = self.read(sorted(names), start, stop)
        return columns, len(entries)

    def flat_values(self, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
        """Return flat columns of all entries, (entries,) each. In damaged clusters, they may be 0."""
        parts = [self._flat_values(names, span, reason) for span, reason in self.spans(start, stop)]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _flat_values(self, names: Sequence[str], span: EntryRange, damage: str) -> dict[str, np.ndarray]:
        try:
            return flat(self._source.read(names, *span), names)
        except Unreachable:
            raise
        except FileUnreadable:
            if not damage:
                raise
        return {name: np.zeros(span[1] - span[0], self._source.columns[name].dtype) for name in names}

    def spans(self, start: int, stop: int) -> list[tuple[EntryRange, str]]:
        """Return the entries start <= i < stop by cluster, each with the reason why it is damaged, or ""."""
        if not self._skips or start >= stop:
            return [((start, stop), "")]
        clusters = self._clusters(start, stop)
        return [((max(start, begin), min(stop, end)), self._check((begin, end))) for begin, end in clusters]

    def _clusters(self, start: int, stop: int) -> list[EntryRange]:
        """Return the clusters that overlap with the entries start <= i < stop; there is at least one."""
        assert self._edges is not None
        first, last = np.searchsorted(self._edges, [start, stop - 1], "right")
        return list(pairwise(self._edges[first - 1 : last + 1].tolist()))

    def _check(self, cluster: EntryRange) -> str:
        """Return why a cluster is damaged, or ""; read it unless that is known."""
        if cluster not in self._damaged_clusters:
            with self._lock:  # another thread may be checking the same cluster
                if cluster not in self._damaged_clusters:
                    self._damaged_clusters[cluster] = self._read_cluster(*cluster)
        return self._damaged_clusters[cluster]

    def _read_cluster(self, start: int, stop: int) -> str:
        """Read all of a cluster, in pieces to limit the memory; return why that fails, or ""."""
        try:
            for begin, end in split_into_blocks([0, stop - start], stop - start, sizes=self._size_at(start)):
                self._source.read(self._branches, start + begin, start + end)
        except Unreachable:
            raise
        except FileUnreadable as error:
            return error.what
        return ""

    def _size_at(self, start: int) -> Sequence[ClusterSize]:
        """Return the size of the cluster that begins at an entry."""
        first = bisect_left(self._source.boundaries, start)
        return self._sizes[first : first + 1]

    @cached_property
    def _sizes(self) -> Sequence[ClusterSize]:
        return self._source.cluster_sizes(self._branches)


def _joined(spans: Sequence[EntryRange]) -> list[EntryRange]:
    """Join adjacent ranges of entries."""
    joined: list[EntryRange] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined


def flat(values: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return some columns, which must be flat; `flat_columns` checks this when a file is opened."""
    return {name: cast(np.ndarray, values[name]) for name in names}
