"""Accumulation of specs, block by block, during the first pass.

    statistics = Statistics({"MET_pt": Kind.FLAT})
    statistics.add(source.read(["MET_pt"], 0, 1000), 1000)
    statistics.specs()

The compiled loop (`kernel.cpp`) adds a block to arrays of counters, one row per branch. Its results have the same bits
as those of `BranchSpecs.of`, which is used if the loop is not compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from queue import SimpleQueue

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Columns, Jagged, Kind, Nested
from mlaas4hep.io.columns import Values, kernel_buffers
from mlaas4hep.specs import sketch
from mlaas4hep.specs.specs import BranchSpecs, Specs


class Statistics:
    """Accumulator of specs; not thread-safe."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        """Start without events; `kinds` lists the branches in the order of the vector."""
        self._kinds = dict(kinds)
        self._lengths: dict[str, tuple[int, ...]] = {}
        self._done: list[Specs] = []
        self._counters: _Counters | None = None

    def add(self, values: Columns, events: int) -> None:
        """Add a block of events; `values` contains every branch."""
        if KERNEL is None:
            branches = {name: BranchSpecs.of(values[name], kind) for name, kind in self._kinds.items()}
            self._done = [Specs.merge_all([*self._done, Specs(branches, events)])]
            return
        columns = [kernel_buffers(self._counted(name, values[name])) for name in self._kinds]
        types = [content.dtype for content, _ in columns]
        if self._counters is None or self._counters.types != types:  # the dtype of an expression may change
            self._flush()
            self._counters = _Counters(types)
        counters = self._counters
        KERNEL.accumulate(columns, events, counters.tallies, counters.extremes, counters.sums, counters.bins)
        counters.events += events

    def _counted(self, name: str, values: Values) -> np.ndarray | Jagged:
        """Return values for the compiled loop, which counts lists of lists as one list; count their lengths here."""
        if not isinstance(values, Nested):
            return values
        lengths = (int(counts.max(initial=0)) for counts in (values.counts, values.lists.counts))
        self._lengths[name] = tuple(map(max, lengths, self._lengths.get(name, (0, 0))))
        return values.flattened

    def specs(self) -> Specs | None:
        """Return the specs of all blocks so far; None if there were none."""
        self._flush()
        return Specs.merge_all(self._done) if self._done else None

    def _flush(self) -> None:
        if self._counters is not None:
            rows = enumerate(self._kinds.items())
            branches = {name: self._counters.branch_specs(row, kind) for row, (name, kind) in rows}
            for name, (dim, inner) in self._lengths.items():
                branches[name] = replace(branches[name], dim=dim, inner=inner)
            self._done.append(Specs(branches, self._counters.events))
            self._counters = None


class StatisticsPool:
    """A pool of accumulators of specs for several threads; each thread uses one at a time."""

    def __init__(self, kinds: Mapping[str, Kind], threads: int) -> None:
        """Start without events, for a number of threads; see `Statistics`."""
        self._threads = threads
        self._free: SimpleQueue[Statistics] = SimpleQueue()
        for _ in range(threads):
            self._free.put(Statistics(kinds))

    def add(self, values: Columns, events: int) -> None:
        """Add a block of events; see `Statistics.add`."""
        statistics = self._free.get()
        statistics.add(values, events)
        self._free.put(statistics)

    def specs(self) -> list[Specs]:
        """Return the specs of all blocks, in up to as many parts as there are threads."""
        parts = [self._free.get().specs() for _ in range(self._threads)]
        return [part for part in parts if part is not None]


class _Counters:
    """The arrays that `KERNEL.accumulate` updates; one row per branch.

    Attributes:
        types: dtype of each branch.
        tallies: int64 (branches, 4): numbers of finite, NaN and infinite values, and the length of the longest list.
        extremes: 8 bytes each (branches, 2): minimum and maximum, as int64, uint64 or float64.
        sums: uint64 (branches, 2, limbs): sums of the values and of their squares, in units of 2^-1074, as integers in
            two's complement.
        bins: int64 (branches, sketch.BINS): counts of the quantile sketch.
    """

    def __init__(self, types: list[np.dtype]) -> None:
        self.types = types
        self.events = 0
        self.tallies = np.zeros((len(types), 4), np.int64)
        self.extremes = np.zeros((len(types), 2), np.int64)
        self.sums = np.zeros((len(types), 2, KERNEL.LIMBS), np.uint64)
        self.bins = np.zeros((len(types), sketch.BINS), np.int64)

    def branch_specs(self, row: int, kind: Kind) -> BranchSpecs:
        """Return the specs of one branch."""
        count, nan, inf, dim = self.tallies[row].tolist()
        if not count:
            return BranchSpecs(kind, dim, nan=nan, inf=inf)
        letter = self.types[row].kind
        low, high = self.extremes[row].view({"f": np.float64, "i": np.int64}.get(letter, np.uint64)).tolist()

        total, squares = (int.from_bytes(one.astype("<u8").tobytes(), "little", signed=True) for one in self.sums[row])
        bins = sketch.non_empty(self.bins[row])
        return BranchSpecs(kind, dim, count, nan, inf, low + 0, high + 0, total, squares, bins)
