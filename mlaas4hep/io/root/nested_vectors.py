"""Read `std::vector<std::vector<number>>` of a TTree with the compiled loop.

dtype = nested_vector_of(branch.interpretation)         # None: uproot reads the branch
basket_layout_of(branch, BYTES_OF_ENTRIES)
decode_vectors(bytes_of_entries, dtype)                  # Nested
"""

from __future__ import annotations

from typing import Any

import numpy as np
from uproot.containers import AsVector
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.columns import Jagged, Nested

BYTES_OF_ENTRIES = AsJagged(AsDtype("u1"))
"""Interpretation of a branch as the bytes of each entry."""


def nested_vector_of(interpretation: Any) -> np.dtype[Any] | None:
    """Return the type of the numbers, in native byte order, if `decode_vectors` supports a branch; else None."""
    outer: Any = getattr(interpretation, "model", None)
    inner: Any = outer.values if isinstance(outer, AsVector) else None
    if KERNEL is None or not isinstance(inner, AsVector) or not outer.header or inner.header:
        return None
    dtype = inner.values
    if not isinstance(dtype, np.dtype) or dtype.shape or dtype.kind not in "biuf":
        return None
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def decode_vectors(entries: Jagged, dtype: np.dtype[Any]) -> Nested:
    """Return the lists of lists that vectors of vectors hold.

    Args:
        entries: the bytes of each entry, uint8.
        dtype: type of the numbers, in native byte order.

    Raises:
        ValueError: the bytes are damaged.
    """
    assert KERNEL is not None
    data, starts, item = np.ascontiguousarray(entries.content), entries.offsets, dtype.itemsize
    outer = np.empty(len(starts), np.int64)
    lists, numbers = KERNEL.measure_vectors(data, starts, item, outer)
    inner, content = np.empty(lists + 1, np.int64), np.empty(numbers, dtype)
    KERNEL.decode_vectors(data, starts, item, dtype == np.bool_, inner, content.view(np.uint8))
    return Nested(outer, Jagged(inner, content))
