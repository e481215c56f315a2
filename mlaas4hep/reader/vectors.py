"""Columns of a file → the normalised matrix and its mask, in one go.

    x, mask, truncated = vectorise(source.read(layout.branches, 0, 1000), 1000, layout, normalisation, fill=0.0)

The compiled loop (`kernel.cpp`) does it where it is there; `with_numpy` is what it must agree with, bit by bit.
"""

from __future__ import annotations

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Columns
from mlaas4hep.io.columns import buffers
from mlaas4hep.io.recycler import MEMORY
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation

Vectors = tuple[np.ndarray, np.ndarray, dict[str, int]]


def vectorise(
    values: Columns,
    events: int,
    layout: VectorLayout,
    normalisation: Normalisation | None,
    fill: float = np.nan,
) -> Vectors:
    """Make vectors of events.

    Args:
        values: every branch of the layout, over the same events.
        events: how many events these are.
        normalisation: None leaves values as they are.
        fill: what stands where there is no value.

    Returns:
        x, float32 (events, features); mask, bool (events, features), True where a value stands; and for each jagged
        branch that had lists longer than its width, how many values were cut off.
    """
    if KERNEL is None:
        return with_numpy(values, events, layout, normalisation, fill)
    return with_kernel(values, events, layout, normalisation, fill)


def with_numpy(
    values: Columns, events: int, layout: VectorLayout, normalisation: Normalisation | None, fill: float
) -> Vectors:
    """Do what `vectorise` says, step by step."""
    x, truncated = layout.assemble(values, events)
    if normalisation is not None:
        return x, normalisation.apply(x, fill), truncated
    mask = ~np.isnan(x)
    if not np.isnan(fill):
        x[~mask] = fill
    return x, mask, truncated


def with_kernel(
    values: Columns,
    events: int,
    layout: VectorLayout,
    normalisation: Normalisation | None,
    fill: float,
) -> Vectors:
    """Do what `vectorise` says, compiled."""
    columns = [buffers(values[slot.branch]) for slot in layout.slots]
    widths = np.array([slot.width for slot in layout.slots], np.int64)
    curves = bends = None
    if normalisation is not None and not normalisation.is_plain:
        curves, bends = normalisation.curves, normalisation.bends
    x = MEMORY.empty((events, layout.width), np.float32)
    mask = MEMORY.empty((events, layout.width), bool)
    assert KERNEL is not None
    lost = KERNEL.assemble(columns, events, widths, curves, bends, fill, x, mask)
    return x, mask, {slot.branch: count for slot, count in zip(layout.slots, lost, strict=True) if count}
