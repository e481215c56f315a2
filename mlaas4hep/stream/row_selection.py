"""Selections of events in blocks. Their values are copied only when a batch is assembled.

    selection = RowSelection.of(block, rows)
    chunk = RowSelection.concatenate([selection, others])[rng.permutation(10_000)]
    batch = chunk[:256].gather()                               # copies each event once, from its block into the batch

`gather_with_numpy` gives the same result as the compiled loop (`kernel.cpp`), and replaces it if it is not compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.reader.inputs import mask_of
from mlaas4hep.reader.objects import Objects, gather
from mlaas4hep.stream.batch import Batch


@dataclass(frozen=True, slots=True)
class RowSelection:
    """References to events in blocks; see the module's docstring.

    Attributes:
        blocks: the blocks that hold the events.
        block: index of each event's block, int64 (events,).
        row: row of each event in its block, int64 (events,).
    """

    blocks: tuple[Batch, ...]
    block: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, block: Batch, rows: np.ndarray | None = None) -> RowSelection:
        """Select rows of one block, in the given order; None: all rows."""
        rows = np.arange(len(block)) if rows is None else rows
        return cls((block,), np.zeros(len(rows), np.int64), rows)

    @classmethod
    def concatenate(cls, parts: Sequence[RowSelection]) -> RowSelection:
        """Return the events of one or more selections, in order."""
        blocks = list({id(block): block for part in parts for block in part.blocks}.values())
        index = {id(block): number for number, block in enumerate(blocks)}
        translated = [np.array([index[id(block)] for block in part.blocks], np.int64)[part.block] for part in parts]
        return cls(tuple(blocks), np.concatenate(translated), np.concatenate([part.row for part in parts]))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: slice | np.ndarray) -> RowSelection:
        """Return the events that a slice, an array of indices or a bool mask selects."""
        return RowSelection(self.blocks, self.block[rows], self.row[rows])

    def gather(self) -> Batch:
        """Copy the events into a batch."""
        block, row = np.ascontiguousarray(self.block), np.ascontiguousarray(self.row)
        first, *others = self.blocks
        gather_arrays = gather_with_numpy if KERNEL is None else gather_with_kernel

        def gather_rows(*sources: Any) -> Any:
            return (gather if isinstance(sources[0], Objects) else gather_arrays)(sources, block, row)

        batch = first.map(gather_rows, *others)
        inputs = {}
        for name, values in batch.inputs.items():
            if isinstance(values, tuple):  # objects: values and mask
                inputs[name], inputs[mask_of(name)] = values
            else:
                inputs[name] = values
        return replace(batch, inputs=inputs)


def rebatch(chunks: Iterable[RowSelection], size: int) -> Iterator[RowSelection]:
    """Cut chunks of any size into batches of `size` events, in order. The last one may be shorter."""
    rest: list[RowSelection] = []
    count = 0
    for chunk in chunks:
        start = 0
        while count + len(chunk) - start >= size:
            stop = start + size - count
            yield RowSelection.concatenate([*rest, chunk[start:stop]])
            rest, count, start = [], 0, stop
        if start < len(chunk):
            rest.append(chunk[start:])
            count += len(chunk) - start
    if rest:
        yield RowSelection.concatenate(rest)


def without_first(chunks: Iterator[RowSelection], events: int) -> Iterator[RowSelection]:
    """Yield the events of some chunks without the first `events`."""
    for chunk in chunks:
        skipped = min(events, len(chunk))
        events -= skipped
        if skipped < len(chunk):
            yield chunk[skipped:] if skipped else chunk


def repeat_rows(rows: np.ndarray, rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Repeat each row so that the mean number of occurrences is its rate."""
    least = np.floor(rates)
    times = (least + (rng.uniform(size=len(rows)) < rates - least)).astype(np.int64)
    return np.repeat(rows, times)


def gather_with_numpy(sources: Sequence[np.ndarray], block: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the array whose item i is row row[i] of sources[block[i]]. Sources may differ in length only."""
    out = np.empty((len(row), *sources[0].shape[1:]), sources[0].dtype)
    for index, source in enumerate(sources):
        chosen = block == index
        out[chosen] = source[row[chosen]]
    return out


def gather_with_kernel(sources: Sequence[np.ndarray], block: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the same as `gather_with_numpy`, computed by the compiled loop."""
    out = BUFFER_POOL.empty((len(row), *sources[0].shape[1:]), sources[0].dtype)
    assert KERNEL is not None
    KERNEL.gather([np.ascontiguousarray(source) for source in sources], block, row, out)
    return out
