"""Reading around damaged clusters.

    skipping = Skipping(source, branches, stop, on_error="skip", verdicts={})
    columns, entries = skipping.read(["MET_pt"], 0, 10_000)      # without the events of clusters that are damaged
    skipping.lost                                                # {(40_000, 80_000): "cannot read branch ..."}

A cluster is lost as a whole: if anything of it cannot be read that a chunk is made of, none of its events is given out.
Where it is read in several pieces, that has to be known before the first of them, so the first piece that is asked for
lets all of the cluster be read once, a piece at a time and for its verdict alone. Verdicts are kept, and whoever opens
the file again may hand them on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from threading import Lock

import numpy as np

from mlaas4hep.errors import FileUnreadable, Unreachable
from mlaas4hep.io import Columns, Source
from mlaas4hep.io.blocks import blocks
from mlaas4hep.io.columns import join_events, no_events

Stretch = tuple[int, int]
"""The entries start <= i < stop."""

Verdicts = dict[Stretch, str]
"""By cluster: why it cannot be read, or "" if it can."""


class Skipping:
    """Read a file, without its damaged clusters if these may be skipped; threads may share it."""

    def __init__(self, source: Source, branches: Iterable[str], stop: int, on_error: str, verdicts: Verdicts) -> None:
        """Read from a source that somebody else closes.

        Args:
            branches: what must be readable of a cluster.
            stop: entries from here on are never read, and have no say.
            on_error: "raise", or "skip".
            verdicts: what is known already; what is found out goes there.
        """
        self._source = source
        self._branches = sorted(branches)
        self._skips = on_error == "skip"
        self._verdicts = verdicts
        self._lock = Lock()
        self._edges = np.array([edge for edge in source.boundaries if edge < stop] + [stop]) if self._skips else None

    @property
    def lost(self) -> dict[Stretch, str]:
        """The clusters that were found damaged so far, and why."""
        return {cluster: reason for cluster, reason in sorted(self._verdicts.copy().items()) if reason}

    def read(self, names: Sequence[str], start: int, stop: int) -> tuple[Columns, np.ndarray]:
        """Return columns of the entries start <= i < stop, and which of these they are, int64 (events,).

        Raises:
            FileUnreadable: the bytes are damaged, and may not be skipped; or they were not when they were looked at.
            Unreachable: no place gives the bytes.
        """
        if not self._skips or start >= stop:
            return self._source.read(names, start, stop), np.arange(start, stop)
        clusters = self._clusters(start, stop)
        unknown = [cluster for cluster in clusters if cluster not in self._verdicts]
        whole = start <= clusters[0][0] and clusters[-1][1] <= stop
        if unknown and whole and set(self._branches) <= set(names):
            try:
                columns = self._source.read(names, start, stop)
            except Unreachable:
                raise
            except FileUnreadable:
                pass  # of which cluster, is found out below
            else:
                self._verdicts.update(dict.fromkeys(unknown, ""))
                return columns, np.arange(start, stop)
        spans = [span for span, reason in self.spans(start, stop) if not reason]
        if not spans:
            return no_events(self._source.columns, names), np.empty(0, np.int64)
        parts = [self._source.read(names, *span) for span in _joined(spans)]
        entries = np.concatenate([np.arange(*span) for span in spans])
        return {name: join_events([part[name] for part in parts]) for name in names}, entries

    def spans(self, start: int, stop: int) -> list[tuple[Stretch, str]]:
        """Return the stretches of the entries start <= i < stop, cluster by cluster, and why one is lost, or ""."""
        if not self._skips or start >= stop:
            return [((start, stop), "")]
        return [
            ((max(start, begin), min(stop, end)), self._verdict((begin, end)))
            for begin, end in self._clusters(start, stop)
        ]

    def _clusters(self, start: int, stop: int) -> list[Stretch]:
        """Return the clusters that hold any of the entries start <= i < stop, at least one."""
        assert self._edges is not None
        first, last = np.searchsorted(self._edges, [start, stop - 1], "right")
        return list(pairwise(self._edges[first - 1 : last + 1].tolist()))

    def _verdict(self, cluster: Stretch) -> str:
        if cluster not in self._verdicts:
            with self._lock:  # whoever waits finds the verdict
                if cluster not in self._verdicts:
                    self._verdicts[cluster] = self._examine(*cluster)
        return self._verdicts[cluster]

    def _examine(self, start: int, stop: int) -> str:
        """Read all of a cluster, in pieces for the sake of memory; return why that fails, or ""."""
        try:
            for begin, end in blocks([0, stop - start], stop - start):
                self._source.read(self._branches, start + begin, start + end)
        except Unreachable:
            raise
        except FileUnreadable as error:
            return error.what
        return ""


def _joined(spans: Sequence[Stretch]) -> list[Stretch]:
    """Join neighbours."""
    joined: list[Stretch] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((start, stop))
    return joined
