"""Events of some blocks, in any order, that are brought together only once they are a batch.

    picks = Picks.of(block, rows)                       # nothing is copied yet
    chunk = Picks.concatenate([picks, others])[rng.permutation(10_000)]
    batch = chunk[:256].gather()                        # each event is copied once, from its block into the batch

The compiled loop (`kernel.cpp`) copies where it is there; `with_numpy` does the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.recycler import MEMORY
from mlaas4hep.reader.inputs import mask_of
from mlaas4hep.reader.objects import Objects, gather
from mlaas4hep.stream.batch import Batch


@dataclass(frozen=True, slots=True)
class Picks:
    """Some events of some blocks; see the module's docstring.

    Attributes:
        blocks: where the events lie.
        block: int64 (events,), the index of each event's block.
        row: int64 (events,), the event's row in it.
    """

    blocks: tuple[Batch, ...]
    block: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, block: Batch, rows: np.ndarray | None = None) -> Picks:
        """Return some rows of one block, in that order; None: all."""
        rows = np.arange(len(block)) if rows is None else rows
        return cls((block,), np.zeros(len(rows), np.int64), rows)

    @classmethod
    def concatenate(cls, parts: Sequence[Picks]) -> Picks:
        """Return the events of at least one part, in order."""
        blocks = list({id(block): block for part in parts for block in part.blocks}.values())
        index = {id(block): number for number, block in enumerate(blocks)}
        translated = [np.array([index[id(block)] for block in part.blocks], np.int64)[part.block] for part in parts]
        return cls(tuple(blocks), np.concatenate(translated), np.concatenate([part.row for part in parts]))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: slice | np.ndarray) -> Picks:
        """Return some of the events: a slice, an index or a bool mask."""
        return Picks(self.blocks, self.block[rows], self.row[rows])

    def gather(self) -> Batch:
        """Copy the events into a batch."""
        block, row = np.ascontiguousarray(self.block), np.ascontiguousarray(self.row)
        first, *others = self.blocks
        take = with_numpy if KERNEL is None else with_kernel

        def bring(*sources: Any) -> Any:
            return (gather if isinstance(sources[0], Objects) else take)(sources, block, row)

        batch = first.map(bring, *others)
        inputs = {}
        for name, found in batch.inputs.items():
            if isinstance(found, tuple):
                inputs[name], inputs[mask_of(name)] = found
            else:
                inputs[name] = found
        return replace(batch, inputs=inputs)


def rebatch(chunks: Iterable[Picks], size: int) -> Iterator[Picks]:
    """Cut chunks of any size into batches of `size` events, in order; the last one may be short."""
    rest: list[Picks] = []
    waiting = 0
    for chunk in chunks:
        start = 0
        while waiting + len(chunk) - start >= size:
            stop = start + size - waiting
            yield Picks.concatenate([*rest, chunk[start:stop]])
            rest, waiting, start = [], 0, stop
        if start < len(chunk):
            rest.append(chunk[start:])
            waiting += len(chunk) - start
    if rest:
        yield Picks.concatenate(rest)


def with_numpy(sources: Sequence[np.ndarray], block: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return row[i] of sources[block[i]] for every i: arrays that differ in length alone."""
    out = np.empty((len(row), *sources[0].shape[1:]), sources[0].dtype)
    for index, source in enumerate(sources):
        mine = block == index
        out[mine] = source[row[mine]]
    return out


def with_kernel(sources: Sequence[np.ndarray], block: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Do what `with_numpy` does, compiled."""
    out = MEMORY.empty((len(row), *sources[0].shape[1:]), sources[0].dtype)
    assert KERNEL is not None
    KERNEL.gather([np.ascontiguousarray(source) for source in sources], block, row, out)
    return out
