"""How files are mixed: lanes that run beside each other, and how much each gives to a chunk.

    lanes = make_lanes(entries=[20_000, 5_000], groups=[0, 1], count=2)
    shares(lanes_entries=[20_000, 5_000], chunk=3, chunks=10)    # [2000, 500]

A lane is a sequence of files of one class, read one after the other. Every chunk takes from every lane in proportion
to its length, so that all lanes end together and every chunk has the sample's composition. With no more files than
lanes, each file is a lane of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from mlaas4hep.io.blocks import READ_ROWS
from mlaas4hep.stream.picks import Picks

MAX_LANES = 16
MEMORY = 512_000_000
"""Bytes that the blocks under way may take: each lane has one in use and one being read."""

MIN_ROWS = 1000
"""Events that a lane reads at a time, at least."""

BYTES_A_VALUE = 5
"""float32 and its mask"""


@dataclass(frozen=True, slots=True)
class Block:
    """The entries start <= i < stop of a file."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LanePlan:
    """How many lanes there are at most, and how many events a lane reads at a time."""

    lanes: int
    rows: int


def plan(width: int, groups: int, files: int) -> LanePlan:
    """Return how to read `files` files of vectors of `width` columns, in at least `groups` lanes, within MEMORY.

    Mixing goes before speed: rather than few lanes there are short blocks, down to MIN_ROWS, although a cluster that is
    cut into several blocks is decompressed for each.
    """
    rows = MEMORY // (2 * BYTES_A_VALUE * max(width, 1))
    lanes = max(groups, min(files, MAX_LANES, rows // MIN_ROWS), 1)
    return LanePlan(lanes, min(READ_ROWS, max(rows // lanes, MIN_ROWS)))


def make_lanes(entries: Sequence[int], groups: Sequence[int], count: int) -> list[list[int]]:
    """Distribute files over about `count` lanes, each of one group, of about equal length.

    Args:
        entries: events of each file.
        groups: the class of each file.

    Returns:
        indices of files, a list a lane; every file is in exactly one.
    """
    if len(entries) <= count:
        return [[file] for file in range(len(entries))]
    total = max(sum(entries), 1)
    lanes: list[list[int]] = []
    for group in sorted(set(groups)):
        members = [file for file, its in enumerate(groups) if its == group]
        share = round(count * sum(entries[file] for file in members) / total)
        lanes += _distribute(members, entries, min(max(share, 1), len(members)))
    return lanes


def shares(lane_entries: Sequence[int], chunk: int, chunks: int) -> list[int]:
    """Return how many entries each lane gives to one of so many chunks; over all chunks they add up exactly."""
    return [total * (chunk + 1) // chunks - total * chunk // chunks for total in lane_entries]


def even_shares(classes: Sequence[int], lane_entries: Sequence[int], chunk: int, chunks: int) -> list[int]:
    """Return what `shares` returns, as much of each class as of any other, and of each lane within a class.

    A class, or a lane, that has no more is made up for by the others.

    Args:
        classes: the class of each lane.
    """
    total = sum(lane_entries)
    before, after = (_level(classes, lane_entries, total * index // chunks) for index in (chunk, chunk + 1))
    return [more - less for less, more in zip(before, after, strict=True)]


def _level(classes: Sequence[int], lengths: Sequence[int], total: int) -> list[int]:
    """Return how much each lane has given when all have given `total`."""
    lanes = {one: [lane for lane, its in enumerate(classes) if its == one] for one in sorted(set(classes))}
    by_class = _evenly([sum(lengths[lane] for lane in members) for members in lanes.values()], total)
    given = [0] * len(lengths)
    for members, share in zip(lanes.values(), by_class, strict=True):
        for lane, its in zip(members, _evenly([lengths[lane] for lane in members], share), strict=True):
            given[lane] = its
    return given


def _evenly(lengths: Sequence[int], total: int) -> list[int]:
    """Return `total` divided so that each gets the same, and none more than its length."""
    given = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda one: (lengths[one], one))
    for place, one in enumerate(order):
        given[one] = min(lengths[one], total // (len(order) - place))
        total -= given[one]
    return given


class Lane:
    """Blocks one after the other, of which `depth` are being read ahead while another is given away."""

    def __init__(
        self, blocks: Iterator[Block], load: Callable[[Block], Picks], pool: ThreadPoolExecutor, depth: int = 1
    ) -> None:
        self._blocks = blocks
        self._load = load
        self._pool = pool
        self._ahead: deque[tuple[Block, Future[Picks]]] = deque()
        for _ in range(depth):
            self._submit()
        self._events: Picks | None = None
        self._entries = self._given = 0

    def take(self, count: int) -> Iterator[Picks]:
        """Yield the events of the next `count` entries; of a block's events, as many as its share of entries says."""
        while count:
            if self._events is None:
                self._next()
            assert self._events is not None
            until = min(self._given + count, self._entries)
            first, last = (len(self._events) * edge // self._entries for edge in (self._given, until))
            yield self._events[first:last]
            count -= until - self._given
            self._given = until
            if until == self._entries:
                self._events = None

    def _next(self) -> None:
        block, future = self._ahead.popleft()  # `shares` never gives out more than there is
        self._events = future.result()
        self._entries, self._given = block.stop - block.start, 0
        self._submit()

    def _submit(self) -> None:
        block = next(self._blocks, None)
        if block is not None:
            self._ahead.append((block, self._pool.submit(self._load, block)))


def _distribute(members: Sequence[int], entries: Sequence[int], count: int) -> list[list[int]]:
    """Put the longest file first, always into the shortest lane."""
    lanes: list[list[int]] = [[] for _ in range(count)]
    lengths = [0] * count
    for file in sorted(members, key=lambda file: (-entries[file], file)):
        shortest = lengths.index(min(lengths))
        lanes[shortest].append(file)
        lengths[shortest] += entries[file]
    return lanes
