"""Stretches of entries, basket by basket.

    BasketReader(byte_ranges).read({"Muon_pt": plan}, 0, 1000)      # native byte order

Which baskets hold the entries is worked out, their bytes are read in few requests, and all are decoded in one go by the
compiled loop (`kernel.cpp`). What it does not know, and everything where it was not built, `baskets.decode` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.baskets import Plan, Unexpected, decode, decode_embedded
from mlaas4hep.io.byte_ranges import ByteRanges
from mlaas4hep.io.columns import Jagged, Values, join_events, size_of, slice_events
from mlaas4hep.io.compression import addresses
from mlaas4hep.io.recycler import MEMORY

Basket = tuple[str, int]
"""The branch of a basket, and its number."""

KEPT = 64_000_000
"""Bytes of decoded baskets that are kept for the next call, where a basket goes on behind the last entry read."""


if KERNEL is not None:
    KERNEL.use_libraries(addresses())


class BasketReader:
    """Read stretches of entries, basket by basket; threads may call it at once."""

    def __init__(self, ranges: ByteRanges) -> None:
        """Read from a file that somebody else closes."""
        self._ranges = ranges
        self._kept: dict[Basket, Values] = {}
        self._lock = Lock()

    def read(self, plans: Mapping[str, Plan], start: int, stop: int) -> dict[str, Values]:
        """Return the entries start <= i < stop, at least one, of some branches, in native byte order.

        A branch with a basket that is `Unexpected` is left out.

        Raises:
            OSError: the bytes cannot be had.
        """
        spans: dict[int, _Span] = {}  # most branches share their edges
        for plan in plans.values():
            if id(plan.edges) not in spans:
                spans[id(plan.edges)] = _Span.of(plan, start, stop)
        wanted = [(name, index) for name, plan in plans.items() for index in spans[id(plan.edges)].baskets]
        found = self._find(plans, wanted)
        columns: dict[str, Values] = {}
        beyond: dict[Basket, Values] = {}
        for name, plan in plans.items():
            span = spans[id(plan.edges)]
            parts = [found[name, index] for index in span.baskets if (name, index) in found]
            if len(parts) == len(span.baskets):
                columns[name] = span.join(parts)
                if span.goes_on:
                    beyond[name, span.baskets[-1]] = parts[-1]
        if 2 * len(beyond) < len(found):  # else they are most of what their memory holds
            beyond = {basket: _copy(part) for basket, part in beyond.items()}
        self._keep(beyond)
        return columns

    def _find(self, plans: Mapping[str, Plan], wanted: Sequence[Basket]) -> dict[Basket, Values]:
        """Return what baskets hold, kept or decoded, without those that are `Unexpected`."""
        kept = self._kept
        found = {basket: kept[basket] for basket in wanted if basket in kept} if kept else {}
        stored = []
        for basket in wanted:
            name, index = basket
            if basket in found:
                continue
            if plans[name].is_embedded(index):
                found.update(_attempt(basket, decode_embedded, plans[name], index))
            else:
                stored.append(basket)
        places = [plans[name].place(index) for name, index in stored]
        memory = self._ranges.read(places)
        found.update(self._decode(plans, stored, [memory[place] for place in places]))
        return found

    def _decode(
        self, plans: Mapping[str, Plan], baskets: Sequence[Basket], contents: Sequence[memoryview]
    ) -> dict[Basket, Values]:
        """Return what baskets hold, without those that are `Unexpected`."""
        found = self._decode_compiled(plans, baskets, contents)
        for basket, content in zip(baskets, contents, strict=True):
            if basket not in found:
                name, index = basket
                found.update(_attempt(basket, decode, plans[name], index, content))
        return found

    def _decode_compiled(
        self, plans: Mapping[str, Plan], baskets: Sequence[Basket], contents: Sequence[memoryview]
    ) -> dict[Basket, Values]:
        """Return what the compiled loop knows to decode."""
        if KERNEL is None or not baskets:
            return {}
        jobs = np.array([plans[name].job(index) for name, index in baskets], np.int64)
        sizes = np.empty(len(baskets), np.int64)
        KERNEL.measure(contents, jobs, sizes)
        rooms = (np.maximum(sizes, 0) + 7) // 8 * 8
        ends = np.cumsum(rooms)
        spots = np.where(sizes < 0, -1, ends - rooms)
        room = MEMORY.empty((int(ends[-1]),), np.uint8)
        entries, is_list = jobs[:, 0], jobs[:, 2] < 0
        offsets = np.empty(
            int((entries + 1)[is_list].sum()), np.int64
        )  # of which little is written, and so becomes real
        lists = np.empty(len(baskets), np.int64)
        KERNEL.decode(contents, jobs, spots, room, offsets, lists)
        found: dict[Basket, Values] = {}
        known: dict[tuple[int, int], np.ndarray] = {}  # the branches of a collection share theirs
        rows = zip(baskets, lists.tolist(), spots.tolist(), sizes.tolist(), entries.tolist(), strict=True)
        for basket, first, spot, size, count in rows:
            if first < 0:
                continue
            plan = plans[basket[0]]
            if plan.shape is not None:
                found[basket] = np.ndarray((count, *plan.shape), plan.native, room, spot)
                continue
            if (first, count) not in known:
                known[first, count] = offsets[first : first + count + 1]
            found[basket] = Jagged(
                known[first, count], np.ndarray(size // plan.dtype.itemsize, plan.native, room, spot)
            )
        return found

    def _keep(self, parts: Mapping[Basket, Values]) -> None:
        """Remember what the next call will want, in place of what the last ones did, as far as there is room."""
        with self._lock:
            kept = {**parts, **self._kept}
            room = KEPT
            for basket, part in list(kept.items()):
                room -= size_of(part)
                if room < 0:
                    del kept[basket]
            self._kept = kept


def _attempt(basket: Basket, decoder: Any, *args: Any) -> dict[Basket, Values]:
    try:
        return {basket: decoder(*args)}
    except Unexpected:
        return {}


def _copy(values: Values) -> Values:
    """Return values of their own, so that they do not hold those of all other baskets."""
    if isinstance(values, Jagged):
        return Jagged(values.offsets.copy(), values.content.copy())
    copied: np.ndarray = values.copy()
    return copied


@dataclass(frozen=True, slots=True)
class _Span:
    """Which baskets hold a stretch of entries, and what of each.

    Attributes:
        cuts: the events of each basket that are wanted, from and to; None for all.
        goes_on: whether the last one has events behind the stretch.
    """

    baskets: range
    cuts: list[tuple[int, int] | None]
    goes_on: bool

    @classmethod
    def of(cls, plan: Plan, start: int, stop: int) -> _Span:
        """Return the span of the entries start <= i < stop, for all branches with these edges."""
        baskets = plan.overlap(start, stop)
        edges = plan.edges[baskets.start : baskets.stop + 1].tolist()
        cuts = [
            None if start <= begin and end <= stop else (max(start - begin, 0), min(stop, end) - begin)
            for begin, end in pairwise(edges)
        ]
        return cls(baskets, cuts, edges[-1] > stop)

    def join(self, parts: list[Values]) -> Values:
        """Put baskets together and cut off what is not wanted."""
        return join_events(
            [part if cut is None else slice_events(part, *cut) for part, cut in zip(parts, self.cuts, strict=True)]
        )
