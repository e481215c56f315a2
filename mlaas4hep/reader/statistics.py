"""What the first pass keeps while it runs.

    statistics = Statistics({"MET_pt": Kind.FLAT})
    statistics.add(source.read(["MET_pt"], 0, 1000), 1000)
    statistics.specs()

The compiled loop (`kernel.cpp`) adds a block to counters that stand in arrays, one row a branch; `BranchSpecs.of` is
what it must agree with, bit by bit, and takes its place where it was not built.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Columns, Kind
from mlaas4hep.io.columns import buffers
from mlaas4hep.reader import sketch
from mlaas4hep.reader.specs import BranchSpecs, Specs


class Statistics:
    """Specs under construction, of one thread."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        """Start with no events; `kinds` has the branches in the order of the vector."""
        self._kinds = dict(kinds)
        self._done: list[Specs] = []
        self._counters: _Counters | None = None

    def add(self, values: Columns, events: int) -> None:
        """Add a block of events; `values` has every branch."""
        if KERNEL is None:
            branches = {name: BranchSpecs.of(values[name], kind) for name, kind in self._kinds.items()}
            self._done = [Specs.merge_all([*self._done, Specs(branches, events)])]
            return
        columns = [buffers(values[name]) for name in self._kinds]
        types = [content.dtype for content, _ in columns]
        if (
            self._counters is None or self._counters.types != types
        ):  # an expression may be whole numbers here, real there
            self._flush()
            self._counters = _Counters(types)
        counters = self._counters
        KERNEL.accumulate(columns, events, counters.tallies, counters.extremes, counters.sums, counters.bins)
        counters.events += events

    def specs(self) -> Specs | None:
        """Return the specs of all blocks so far; None where there was none."""
        self._flush()
        return Specs.merge_all(self._done) if self._done else None

    def _flush(self) -> None:
        if self._counters is not None:
            branches = {name: self._counters.branch(row, kind) for row, (name, kind) in enumerate(self._kinds.items())}
            self._done.append(Specs(branches, self._counters.events))
            self._counters = None


class _Counters:
    """The arrays that `accumulate` counts in; a row is a branch.

    Attributes:
        types: of the numbers of each branch.
        tallies: int64 (branches, 4): finite numbers, NaN, infinite numbers, length of the longest list.
        extremes: 8 bytes each (branches, 2): minimum and maximum, as int64, uint64 or float64.
        sums: uint64 (branches, 2, limbs): of the numbers, and of their squares, in units of 2^-1074, two's complement.
        bins: int64 (branches, bins of `sketch`).
    """

    def __init__(self, types: list[np.dtype]) -> None:
        self.types = types
        self.events = 0
        self.tallies = np.zeros((len(types), 4), np.int64)
        self.extremes = np.zeros((len(types), 2), np.int64)
        self.sums = np.zeros((len(types), 2, KERNEL.LIMBS), np.uint64)
        self.bins = np.zeros((len(types), sketch.BINS), np.int64)

    def branch(self, row: int, kind: Kind) -> BranchSpecs:
        """Return the specs of one branch."""
        count, nan, inf, dim = self.tallies[row].tolist()
        if not count:
            return BranchSpecs(kind, dim, nan=nan, inf=inf)
        letter = self.types[row].kind
        low, high = self.extremes[row].view({"f": np.float64, "i": np.int64}.get(letter, np.uint64)).tolist()
        keys = np.flatnonzero(self.bins[row])
        total, squares = (
            int.from_bytes(limbs.astype("<u8").tobytes(), "little", signed=True) for limbs in self.sums[row]
        )
        counts = self.bins[row, keys]
        bins = dict(zip(keys.tolist(), counts.tolist(), strict=True))
        return BranchSpecs(kind, dim, count, nan, inf, low + 0, high + 0, total, squares, bins)
