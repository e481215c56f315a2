"""Read ranges of entries from baskets.

    BasketReader(byte_ranges).read({"Muon_pt": layout}, 0, 1000)    # native byte order

The baskets that contain the entries are read with few requests, and the compiled loop (`kernel.cpp`) decodes all of
them in one call. `baskets.decode` decodes what the loop does not support, or everything if the loop was not built.
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
from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.columns import Jagged, Values, concatenate_events, nbytes, slice_events
from mlaas4hep.io.root.baskets import BasketLayout, UnsupportedBasket, decode
from mlaas4hep.io.root.compression import addresses
from mlaas4hep.io.storage.byte_ranges import ByteRanges, merge_span_arrays

Basket = tuple[str, int]
"""Name of the branch, and index of the basket."""

CACHE_BYTES = 64_000_000
"""Bytes of decoded baskets that are cached for the next call, if they extend past the last entry that was read."""


if KERNEL is not None:
    KERNEL.use_libraries(addresses())


class Job(IntEnum):
    """Columns of the array that describes baskets to the compiled loop (`Job` in `kernel.cpp`)."""

    span, at, size, entries, item, width, header, is_bool = range(8)


@dataclass(frozen=True, slots=True)
class _Group:
    """Branches whose baskets contain the same entries, as do those of almost all branches of a tree.

    Attributes:
        names, layouts: names and basket layouts of the branches.
        seek, size: first byte and length of each basket, int64 (baskets that are not embedded, branches).
        constants: int64 (branches, 4), see `BasketLayout`.
    """

    names: Sequence[str]
    layouts: Sequence[BasketLayout]
    seek: np.ndarray
    size: np.ndarray
    constants: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], layouts: Sequence[BasketLayout]) -> _Group:
        """Group branches."""
        seek, size = (np.stack([getattr(layout, what) for layout in layouts], axis=1) for what in ("seek", "bytes"))
        return cls(names, layouts, seek, size, np.array([layout.constants for layout in layouts], np.int64))

    def jobs(self, index: int) -> np.ndarray:
        """Return the jobs for one basket of each branch, int64 (branches, 8).

        `at` is relative to the file, or to the basket if it is embedded.
        """
        edges, jobs = self.layouts[0].edges, np.empty((len(self.names), len(Job)), np.int64)
        if index < len(self.seek):
            jobs[:, Job.at], jobs[:, Job.size] = self.seek[index], self.size[index]
        else:
            jobs[:, Job.at], jobs[:, Job.size] = 0, list(map(len, self.embedded(index)))
        jobs[:, Job.entries], jobs[:, Job.item :] = edges[index + 1] - edges[index], self.constants
        return jobs

    def embedded(self, index: int) -> list[memoryview]:
        """Return one basket of each branch if these are embedded in the record of the tree; else an empty list."""
        number = index - len(self.seek)
        return [layout.embedded[number] for layout in self.layouts] if number >= 0 else []


@dataclass(frozen=True, slots=True)
class _Slice:
    """The baskets with one index of all branches of a group, and their values, None if not decoded yet."""

    group: _Group
    index: int
    values: list[Values | None]


class BasketReader:
    """Reads ranges of entries from baskets. It is thread-safe."""

    def __init__(self, ranges: ByteRanges) -> None:
        """Read from `ranges`, which the caller closes."""
        self._ranges = ranges
        self._groups: tuple[list[str], list[_Group]] = [], []
        self._cache: dict[Basket, Values] = {}
        self._lock = Lock()

    def read(self, layouts: Mapping[str, BasketLayout], start: int, stop: int) -> dict[str, Values]:
        """Return the entries start <= i < stop, at least one, of some branches, in native byte order.

        The result lacks branches with an `UnsupportedBasket`. The layout of a branch must always be the same.

        Raises:
            OSError: the file cannot be read.
        """
        groups = self._grouped(layouts)
        ranges = [_EntryRange.of(group.layouts[0], start, stop) for group in groups]
        slices = [
            [_Slice(group, index, self._cached(group, index)) for index in entries.baskets]
            for group, entries in zip(groups, ranges, strict=True)
        ]
        self._fill([one for several in slices for one in several])
        columns: dict[str, Values] = {}
        reusable: dict[Basket, Values] = {}
        for group, entries, several in zip(groups, ranges, slices, strict=True):
            for row, name in enumerate(group.names):
                parts = [part for one in several if (part := one.values[row]) is not None]
                if len(parts) == len(several):
                    columns[name] = entries.join(parts)
                    if entries.is_partial:
                        reusable[name, several[-1].index] = parts[-1]
        if 2 * len(reusable) < sum(len(one.values) for several in slices for one in several):
            # Copy them, so that they do not keep the memory of all other baskets.
            reusable = {basket: _copy(part) for basket, part in reusable.items()}
        self._add_to_cache(reusable)
        return columns

    def _grouped(self, layouts: Mapping[str, BasketLayout]) -> list[_Group]:
        """Return the groups of branches, which are reused if the last call had the same branches."""
        names, groups = self._groups
        if names != list(layouts):
            same_edges: dict[tuple[int, int], list[str]] = {}
            for name, layout in layouts.items():
                same_edges.setdefault((id(layout.edges), len(layout.seek)), []).append(name)
            groups = [_Group.of(members, [layouts[name] for name in members]) for members in same_edges.values()]
            self._groups = list(layouts), groups
        return groups

    def _cached(self, group: _Group, index: int) -> list[Values | None]:
        """Return the values of a slice that are in the cache."""
        cache = self._cache
        return [cache.get((name, index)) for name in group.names] if cache else [None] * len(group.names)

    def _fill(self, slices: Sequence[_Slice]) -> None:
        """Read and decode the missing values of slices. The values of an `UnsupportedBasket` stay None."""
        wanted = [(one, [row for row, part in enumerate(one.values) if part is None]) for one in slices]
        jobs = [one.group.jobs(one.index)[missing] for one, missing in wanted]
        table = np.concatenate([np.empty((0, len(Job)), np.int64), *jobs])
        if not len(table):
            return
        contents = self._contents(wanted, table)
        layouts = [one.group.layouts[row] for one, missing in wanted for row in missing]
        decoded = iter(zip(_decode_compiled(layouts, table, contents), table.tolist(), strict=True))
        for one, missing in wanted:
            for row in missing:
                part, (span, at, size, *_) = next(decoded)
                if part is None:
                    part = _attempt(decode, one.group.layouts[row], one.index, contents[span][at : at + size])
                one.values[row] = part

    def _contents(self, wanted: Sequence[tuple[_Slice, list[int]]], table: np.ndarray) -> list[memoryview]:
        """Return the spans of the file that contain some baskets, and the embedded baskets.

        Set `span`, and `at` in the span, of the jobs in `table`.
        """
        embedded: list[memoryview] = []
        is_embedded: list[bool] = []
        for one, missing in wanted:
            baskets = one.group.embedded(one.index)
            embedded += [baskets[row] for row in missing if baskets]
            is_embedded += [bool(baskets)] * len(missing)
        in_file = ~np.array(is_embedded)
        spans, span, at = merge_span_arrays(table[in_file, Job.at], table[in_file, Job.size])
        table[in_file, Job.span], table[in_file, Job.at] = span, at
        table[~in_file, Job.span] = np.arange(len(embedded)) + len(spans)
        memory = self._ranges.read(spans)
        return [*(memory[span] for span in spans), *embedded]

    def _add_to_cache(self, parts: Mapping[Basket, Values]) -> None:
        """Cache baskets for the next call, and evict those of earlier calls beyond CACHE_BYTES."""
        with self._lock:
            cache = {**parts, **self._cache}
            free = CACHE_BYTES
            for basket, part in list(cache.items()):
                free -= nbytes(part)
                if free < 0:
                    del cache[basket]
            self._cache = cache


def _decode_compiled(
    layouts: Sequence[BasketLayout], jobs: np.ndarray, contents: Sequence[memoryview]
) -> Sequence[Values | None]:
    """Return the values of baskets, None if the compiled loop does not support one, or was not built.

    `jobs`, int64 (baskets, 8), has the columns `Job`; `contents` are the merged spans that contain the baskets.
    """
    if KERNEL is None:
        return [None] * len(layouts)
    sizes = np.empty(len(layouts), np.int64)
    KERNEL.measure(contents, jobs, sizes)
    padded = (np.maximum(sizes, 0) + 7) // 8 * 8
    ends = np.cumsum(padded)
    positions = np.where(sizes < 0, -1, ends - padded)
    buffer = BUFFER_POOL.empty((int(ends[-1]),), np.uint8)
    entries, is_list = jobs[:, Job.entries], jobs[:, Job.width] < 0
    offsets = np.empty(int((entries + 1)[is_list].sum()), np.int64)  # pages that are not written take no memory
    lists = np.empty(len(layouts), np.int64)
    KERNEL.decode(contents, jobs, positions, buffer, offsets, lists)
    shared: dict[tuple[int, int], np.ndarray] = {}  # branches of a collection share their offsets

    def part(layout: BasketLayout, first: int, position: int, size: int, count: int) -> Values | None:
        if first < 0:
            return None
        if layout.shape is not None:
            values: np.ndarray = np.ndarray((count, *layout.shape), layout.native, buffer, position)
            return values
        if (first, count) not in shared:
            shared[first, count] = offsets[first : first + count + 1]
        return Jagged(shared[first, count], np.ndarray(size // layout.dtype.itemsize, layout.native, buffer, position))

    return list(map(part, layouts, lists.tolist(), positions.tolist(), sizes.tolist(), entries.tolist()))


def _attempt(decoder: Callable[..., Values], *args: Any) -> Values | None:
    try:
        return decoder(*args)
    except UnsupportedBasket:
        return None


def _copy(values: Values) -> Values:
    """Return values in memory of their own."""
    if isinstance(values, Jagged):
        return Jagged(values.offsets.copy(), values.content.copy())
    return np.array(values)


@dataclass(frozen=True, slots=True)
class _EntryRange:
    """The baskets that contain a range of entries.

    Attributes:
        baskets: indices of the baskets.
        cuts: the wanted entries of each basket, first and end; None: all.
        is_partial: whether the last basket extends past the last entry.
    """

    baskets: range
    cuts: list[tuple[int, int] | None]
    is_partial: bool

    @classmethod
    def of(cls, layout: BasketLayout, start: int, stop: int) -> _EntryRange:
        """Return the range of the entries start <= i < stop, for all branches with the same edges."""
        baskets = layout.overlap(start, stop)
        edges = layout.edges[baskets.start : baskets.stop + 1].tolist()
        cuts = [
            None if start <= begin and end <= stop else (max(start - begin, 0), min(stop, end) - begin)
            for begin, end in pairwise(edges)
        ]
        return cls(baskets, cuts, edges[-1] > stop)

    def join(self, parts: list[Values]) -> Values:
        """Concatenate the wanted entries of the baskets."""
        return concatenate_events(
            [part if cut is None else slice_events(part, *cut) for part, cut in zip(parts, self.cuts, strict=True)]
        )
