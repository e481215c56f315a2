"""Conversion of the columns of a file to normalised vectors.

    x, mask, truncated = vectorise(source.read(layout.branches, 0, 1000), 1000, layout, normalisation, fill=0.0)

The compiled loop (`kernel.cpp`) is used if it is available. `with_numpy` gives the same bits, and is used otherwise.
"""

from __future__ import annotations

import numpy as np

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io import Columns, Nested
from mlaas4hep.io.buffer_pool import BUFFER_POOL
from mlaas4hep.io.columns import kernel_buffers
from mlaas4hep.reader.layout import VectorLayout, pad_inner_lists
from mlaas4hep.reader.normalise import Normalisation

Vectors = tuple[np.ndarray, np.ndarray, dict[str, int]]


def vectorise(
    values: Columns, events: int, layout: VectorLayout, normalisation: Normalisation | None, fill: float = np.nan
) -> Vectors:
    """Return the vectors of some events, given every branch of the layout.

    Args:
        normalisation: normalisation of the vectors; None keeps the raw values.
        fill: value of padding and NaN.

    Returns:
        x, float32 (events, features); mask, bool (events, features), True for values; and the number of dropped values
        of each branch that has lists longer than its columns.
    """
    return (with_numpy if KERNEL is None else with_kernel)(values, events, layout, normalisation, fill)


def with_numpy(
    values: Columns, events: int, layout: VectorLayout, normalisation: Normalisation | None, fill: float
) -> Vectors:
    """Return the vectors of some events, computed with NumPy; see `vectorise`."""
    x, truncated = layout.assemble(values, events)
    if normalisation is not None:
        return x, normalisation.apply(x, fill), truncated
    mask = ~np.isnan(x)
    if not np.isnan(fill):
        x[~mask] = fill
    return x, mask, truncated


def with_kernel(
    values: Columns, events: int, layout: VectorLayout, normalisation: Normalisation | None, fill: float
) -> Vectors:
    """Return the vectors of some events, computed by the compiled loop; see `vectorise`."""
    columns: list[tuple[np.ndarray, np.ndarray | None]] = []
    truncated: dict[str, int] = {}
    for slot in layout.slots:
        column = values[slot.branch]
        if isinstance(column, Nested):
            column, truncated[slot.branch] = pad_inner_lists(column, slot.length, slot.inner)
        columns.append(kernel_buffers(column))
    widths = np.array([slot.width for slot in layout.slots], np.int64)
    constants = uses_asinh = None
    if normalisation is not None and not normalisation.is_identity:
        constants, uses_asinh = normalisation.constants, normalisation.uses_asinh
    x = BUFFER_POOL.empty((events, layout.width), np.float32)
    mask = BUFFER_POOL.empty((events, layout.width), bool)
    assert KERNEL is not None
    dropped = KERNEL.assemble(columns, events, widths, constants, uses_asinh, fill, x, mask)
    truncated |= {slot.branch: count for slot, count in zip(layout.slots, dropped, strict=True) if count}
    return x, mask, {branch: count for branch, count in truncated.items() if count}
