"""Stretches of entries, basket by basket.

    BasketReader(byte_ranges).read({"Muon_pt": plan}, 0, 1000)      # native byte order

Which baskets hold the entries is worked out, their bytes are read in few requests, and all are decoded in one go by the
compiled loop (`kernel.cpp`). What it does not know, and everything where it was not built, `baskets.decode` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.baskets import Plan, Unexpected, decode, decode_embedded
from mlaas4hep.io.byte_ranges import ByteRanges, stretches
from mlaas4hep.io.columns import Jagged, Values, join_events, size_of, slice_events
from mlaas4hep.io.compression import addresses
from mlaas4hep.io.recycler import MEMORY

Basket = tuple[str, int]
"""The branch of a basket, and its number."""

KEPT = 64_000_000
"""Bytes of decoded baskets that are kept for the next call, where a basket goes on behind the last entry read."""


if KERNEL is not None:
    KERNEL.use_libraries(addresses())


class Job(IntEnum):
    """What the compiled loop must know of a basket, by column (`Job` in `kernel.cpp`)."""

    stretch, at, size, entries, item, width, header = range(7)


@dataclass(frozen=True, slots=True)
class _Group:
    """Branches whose baskets hold the same entries, as almost all of a tree do.

    Attributes:
        names, plans: of the branches.
        seek, size: int64 (baskets on their own, branches), where each begins in the file, and its length.
        constants: int64 (branches, 3), see `Plan`.
    """

    names: Sequence[str]
    plans: Sequence[Plan]
    seek: np.ndarray
    size: np.ndarray
    constants: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], plans: Sequence[Plan]) -> _Group:
        """Put the plans of branches together."""
        seek, size = (np.stack([getattr(plan, what) for plan in plans], axis=1) for what in ("seek", "bytes"))
        return cls(names, plans, seek, size, np.array([plan.constants for plan in plans], np.int64))

    def jobs(self, index: int) -> np.ndarray:
        """Return the jobs of a basket of each branch, int64 (branches, 7), `at` counted from the file's beginning."""
        edges, jobs = self.plans[0].edges, np.empty((len(self.names), len(Job)), np.int64)
        jobs[:, Job.at], jobs[:, Job.size] = self.seek[index], self.size[index]
        jobs[:, Job.entries], jobs[:, Job.item :] = edges[index + 1] - edges[index], self.constants
        return jobs


@dataclass(frozen=True, slots=True)
class _Slice:
    """The baskets of one number of a group's branches, and what they hold, None where that is not known."""

    group: _Group
    index: int
    values: list[Values | None]


class BasketReader:
    """Read stretches of entries, basket by basket; threads may call it at once."""

    def __init__(self, ranges: ByteRanges) -> None:
        """Read from a file that somebody else closes."""
        self._ranges = ranges
        self._groups: tuple[list[str], list[_Group]] = [], []
        self._kept: dict[Basket, Values] = {}
        self._lock = Lock()

    def read(self, plans: Mapping[str, Plan], start: int, stop: int) -> dict[str, Values]:
        """Return the entries start <= i < stop, at least one, of some branches, in native byte order.

        A branch with a basket that is `Unexpected` is left out.

        Args:
            plans: by branch; that of a branch is always the same.

        Raises:
            OSError: the bytes cannot be had.
        """
        groups = self._grouped(plans)
        spans = [_Span.of(group.plans[0], start, stop) for group in groups]
        slices = [
            [_Slice(group, index, self._known(group, index)) for index in span.baskets]
            for group, span in zip(groups, spans, strict=True)
        ]
        self._fill([one for several in slices for one in several])
        columns: dict[str, Values] = {}
        beyond: dict[Basket, Values] = {}
        for group, span, several in zip(groups, spans, slices, strict=True):
            for row, name in enumerate(group.names):
                parts = [part for one in several if (part := one.values[row]) is not None]
                if len(parts) == len(several):
                    columns[name] = span.join(parts)
                    if span.goes_on:
                        beyond[name, several[-1].index] = parts[-1]
        if 2 * len(beyond) < sum(len(one.values) for several in slices for one in several):
            beyond = {basket: _copy(part) for basket, part in beyond.items()}
        # else they are most of what their memory holds, and need none of their own
        self._keep(beyond)
        return columns

    def _grouped(self, plans: Mapping[str, Plan]) -> list[_Group]:
        """Return the groups of branches, those of the last call if these are the same."""
        names, groups = self._groups
        if names != list(plans):
            alike: dict[tuple[int, int], list[str]] = {}
            for name, plan in plans.items():
                alike.setdefault((id(plan.edges), len(plan.seek)), []).append(name)
            groups = [_Group.of(several, [plans[name] for name in several]) for several in alike.values()]
            self._groups = list(plans), groups
        return groups

    def _known(self, group: _Group, index: int) -> list[Values | None]:
        """Return what is kept of a slice."""
        kept = self._kept
        return [kept.get((name, index)) for name in group.names] if kept else [None] * len(group.names)

    def _fill(self, slices: Sequence[_Slice]) -> None:
        """Read and decode what is not known yet of some slices; what is `Unexpected` stays unknown."""
        stored: list[tuple[_Slice, list[int]]] = []
        for one in slices:
            missing = [row for row, part in enumerate(one.values) if part is None]
            if one.index < len(one.group.seek):
                stored.append((one, missing))
                continue
            for row in missing:
                one.values[row] = _attempt(decode_embedded, one.group.plans[row], one.index)
        jobs = [one.group.jobs(one.index)[missing] for one, missing in stored]
        whole = np.concatenate([np.empty((0, len(Job)), np.int64), *jobs])
        if not len(whole):
            return
        places, whole[:, Job.stretch], whole[:, Job.at] = stretches(whole[:, Job.at], whole[:, Job.size])
        memory = self._ranges.read(places)
        contents = [memory[place] for place in places]
        plans = [one.group.plans[row] for one, missing in stored for row in missing]
        found = iter(zip(_decode_compiled(plans, whole, contents), whole.tolist(), strict=True))
        for one, missing in stored:
            for row in missing:
                part, (stretch, at, size, *_) = next(found)
                if part is None:
                    part = _attempt(decode, one.group.plans[row], one.index, contents[stretch][at : at + size])
                one.values[row] = part

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


def _decode_compiled(
    plans: Sequence[Plan], jobs: np.ndarray, contents: Sequence[memoryview]
) -> Sequence[Values | None]:
    """Return what baskets hold, None where the compiled loop does not know how to decode one, or was not built.

    Args:
        plans: of the branch of each.
        jobs: int64 (baskets, 7), the fields of `Job`.
        contents: the stretches of the file that they lie in.
    """
    if KERNEL is None:
        return [None] * len(plans)
    sizes = np.empty(len(plans), np.int64)
    KERNEL.measure(contents, jobs, sizes)
    rooms = (np.maximum(sizes, 0) + 7) // 8 * 8
    ends = np.cumsum(rooms)
    spots = np.where(sizes < 0, -1, ends - rooms)
    room = MEMORY.empty((int(ends[-1]),), np.uint8)
    entries, is_list = jobs[:, Job.entries], jobs[:, Job.width] < 0
    offsets = np.empty(int((entries + 1)[is_list].sum()), np.int64)  # of which little is written, and so becomes real
    lists = np.empty(len(plans), np.int64)
    KERNEL.decode(contents, jobs, spots, room, offsets, lists)
    known: dict[tuple[int, int], np.ndarray] = {}  # the branches of a collection share theirs

    def part(plan: Plan, first: int, spot: int, size: int, count: int) -> Values | None:
        if first < 0:
            return None
        if plan.shape is not None:
            values: np.ndarray = np.ndarray((count, *plan.shape), plan.native, room, spot)
            return values
        if (first, count) not in known:
            known[first, count] = offsets[first : first + count + 1]
        return Jagged(known[first, count], np.ndarray(size // plan.dtype.itemsize, plan.native, room, spot))

    return list(map(part, plans, lists.tolist(), spots.tolist(), sizes.tolist(), entries.tolist()))


def _attempt(decoder: Callable[..., Values], *args: Any) -> Values | None:
    try:
        return decoder(*args)
    except Unexpected:
        return None


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
