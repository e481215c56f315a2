"""Mix files by interleaving several queues of files.

    queues = distribute_files(entries=[20_000, 5_000], groups=[0, 1], count=2)
    proportional_shares([20_000, 5_000], chunk=3, chunks=10)        # [2000, 500]

A queue consists of files of one class, which are read one after another. A chunk takes entries from all queues, in
proportion to their lengths, so that all queues end at the same time and every chunk has the composition of the sample.
If there are no more files than queues, each file has a queue of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from mlaas4hep.io.blocks import READ_ROWS
from mlaas4hep.reader.memory_check import BLOCK_BYTES, BYTES_PER_VALUE
from mlaas4hep.stream.row_selection import RowSelection

MAX_QUEUES = 16
MEMORY = 512_000_000
"""Bytes that the blocks in memory may take: each queue has one block in use and one being read."""

MIN_ROWS = 1000
"""Minimum number of events per block, unless they take more than BLOCK_BYTES."""


@dataclass(frozen=True, slots=True)
class Block:
    """The entries start <= i < stop of a file."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class InterleavingPlan:
    """Number of queues that are read in parallel, and number of events per block."""

    queues: int
    rows: int


def plan_interleaving(width: int, groups: int, files: int) -> InterleavingPlan:
    """Choose the number of queues, at least one per class, and the size of their blocks, within MEMORY.

    Mixing takes precedence over speed: wide vectors lead to shorter blocks, down to MIN_ROWS, before they lead to fewer
    queues, although a cluster that is cut into several blocks is decompressed for each of them.

    Args:
        width: number of columns of a vector.
        groups: number of classes that files are grouped by.
    """
    row_bytes = BYTES_PER_VALUE * max(width, 1)
    rows, min_rows = MEMORY // (2 * row_bytes), max(min(MIN_ROWS, BLOCK_BYTES // row_bytes), 1)
    queues = max(groups, min(files, MAX_QUEUES, rows // MIN_ROWS), 1)
    return InterleavingPlan(queues, min(READ_ROWS, max(rows // queues, min_rows)))


def distribute_files(entries: Sequence[int], groups: Sequence[int], count: int) -> list[list[int]]:
    """Distribute files over about `count` queues of similar length, each with files of one group.

    Args:
        entries, groups: number of entries and class of each file.

    Returns:
        Indices of the files of each queue. Every file is in exactly one queue.
    """
    if len(entries) <= count:
        return [[file] for file in range(len(entries))]
    total = max(sum(entries), 1)
    queues: list[list[int]] = []
    for group in sorted(set(groups)):
        members = [file for file, other in enumerate(groups) if other == group]
        share = round(count * sum(entries[file] for file in members) / total)
        queues += _distribute(members, entries, min(max(share, 1), len(members)))
    return queues


def proportional_shares(lengths: Sequence[int], chunk: int, chunks: int) -> list[int]:
    """Return how many entries of each queue belong to chunk number `chunk` of `chunks`, in proportion to its length."""
    return [length * (chunk + 1) // chunks - length * chunk // chunks for length in lengths]


def balanced_shares(classes: Sequence[int], lengths: Sequence[int], chunk: int, chunks: int) -> list[int]:
    """Return how many entries of each queue belong to chunk number `chunk` of `chunks`, equally many of each class.

    Within a class, each queue contributes equally. When a class or a queue is used up, the others replace it.

    Args:
        classes, lengths: class and number of entries of each queue.
    """
    total = sum(lengths)
    before, after = (_taken(classes, lengths, total * index // chunks) for index in (chunk, chunk + 1))
    return [stop - start for start, stop in zip(before, after, strict=True)]


def _taken(classes: Sequence[int], lengths: Sequence[int], total: int) -> list[int]:
    """Return how many entries were taken from each queue when `total` were taken from all."""
    queues = {name: [queue for queue, other in enumerate(classes) if other == name] for name in sorted(set(classes))}
    by_class = _divide([sum(lengths[queue] for queue in members) for members in queues.values()], total)
    taken = [0] * len(lengths)
    for members, share in zip(queues.values(), by_class, strict=True):
        for queue, count in zip(members, _divide([lengths[queue] for queue in members], share), strict=True):
            taken[queue] = count
    return taken


def _divide(lengths: Sequence[int], total: int) -> list[int]:
    """Divide `total` into equal shares, none of which exceeds its length."""
    shares = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for position, index in enumerate(order):
        shares[index] = min(lengths[index], total // (len(order) - position))
        total -= shares[index]
    return shares


class BlockQueue:
    """A sequence of blocks from which entries are taken in order. Blocks are loaded in the background."""

    def __init__(
        self, blocks: Iterator[Block], load: Callable[[Block], RowSelection], pool: ThreadPoolExecutor, depth: int = 1
    ) -> None:
        """Load up to `depth` blocks ahead of the one in use, with `load`, in the threads of `pool`."""
        self._blocks = blocks
        self._load = load
        self._pool = pool
        self._pending: deque[tuple[Block, Future[RowSelection]]] = deque()
        for _ in range(depth):
            self._submit()
        self._events: RowSelection | None = None
        self._entries = self._taken = 0  # of the block in use

    def take(self, count: int) -> Iterator[RowSelection]:
        """Yield the events of the next `count` entries.

        If cuts removed some events of a block, its remaining events are distributed evenly over its entries.
        """
        while count:
            if self._events is None:
                self._next()
            assert self._events is not None
            stop = min(self._taken + count, self._entries)
            first, last = (len(self._events) * edge // self._entries for edge in (self._taken, stop))
            yield self._events[first:last]
            count -= stop - self._taken
            self._taken = stop
            if stop == self._entries:
                self._events = None

    def _next(self) -> None:
        block, future = self._pending.popleft()  # never empty, because the shares of all chunks add up to the length
        self._events = future.result()
        self._entries, self._taken = block.stop - block.start, 0
        self._submit()

    def _submit(self) -> None:
        block = next(self._blocks, None)
        if block is not None:
            self._pending.append((block, self._pool.submit(self._load, block)))


def _distribute(members: Sequence[int], entries: Sequence[int], count: int) -> list[list[int]]:
    """Distribute files over `count` queues: the longest file first, always into the shortest queue."""
    queues: list[list[int]] = [[] for _ in range(count)]
    lengths = [0] * count
    for file in sorted(members, key=lambda file: (-entries[file], file)):
        shortest = lengths.index(min(lengths))
        queues[shortest].append(file)
        lengths[shortest] += entries[file]
    return queues
