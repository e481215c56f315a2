"""Decode baskets of numbers into NumPy arrays, without uproot.

    layout = basket_layout_of(tree["Muon_pt"])                      # None: not supported, use uproot
    decode(layout, 3, memory_of_basket_3)                           # the values of one basket

uproot parses the file and its types. This module checks the key of a basket, decompresses it, and returns its numbers
in native byte order. It supports numbers, fixed-size arrays and lists of numbers. For everything else it raises
`UnsupportedBasket`, and uproot reads the basket instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.io.columns import Jagged, Values, canonical_bools
from mlaas4hep.io.root.basket_form import BASKET, KEY, SHORTEST_KEY, stored_basket
from mlaas4hep.io.root.compression import DamagedBlock, decompress
from mlaas4hep.io.root.object_bits import holds_object_bits
from mlaas4hep.io.root.uproot_branches import interpretation_of


class UnsupportedBasket(Exception):
    """A basket is damaged, or its format is not supported."""


@dataclass(frozen=True, slots=True)
class BasketLayout:
    """Positions and format of the baskets of a branch.

    Attributes:
        dtype: type of the numbers in the file, big-endian.
        shape: shape per entry: () for one number, (n,) for a fixed-size array; None for lists.
        header: number of bytes before each list.
        edges: int64 (baskets + 1,), basket i holds the entries edges[i] <= entry < edges[i + 1].
        seek, bytes: first byte and length, including the key, of each basket that is not embedded, int64.
        embedded: the bytes of the remaining baskets, which are embedded in the record of the tree.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    header: int
    edges: np.ndarray
    seek: np.ndarray
    bytes: np.ndarray
    embedded: tuple[memoryview, ...] = ()

    @property
    def native(self) -> np.dtype[Any]:
        """The type of the numbers in native byte order."""
        native: np.dtype[Any] = self.dtype.newbyteorder("=")
        return native

    @property
    def constants(self) -> tuple[int, int, int, int]:
        """Constants for the compiled loop: bytes per number, numbers per entry (-1: list), header, 1 for bools."""
        numbers = -1 if self.shape is None else math.prod(self.shape)
        return self.dtype.itemsize, numbers, self.header, int(self.dtype == np.bool_)

    def overlap(self, start: int, stop: int) -> range:
        """Return the indices of the baskets that contain the entries start <= i < stop, at least one."""
        first, last = np.searchsorted(self.edges, [start, stop - 1], "right")
        return range(int(first) - 1, int(last))


def basket_layout_of(branch: Any, override: Any = None) -> BasketLayout | None:
    """Return the basket layout of one of uproot's branches; None if its baskets are not supported.

    Args:
        override: interpretation to use instead of that of `interpretation_of`.
    """
    interpretation = interpretation_of(branch) if override is None else override
    jagged = type(interpretation) is AsJagged
    content = interpretation.content if jagged else interpretation
    if type(content) is not AsDtype or content.from_dtype.base.newbyteorder("=") != content.to_dtype.base:
        return None
    dtype, shape = content.from_dtype.base, content.from_dtype.shape
    if dtype.kind not in "biuf" or (override is None and len(branch.member("fLeaves")) != 1):
        return None
    if holds_object_bits(branch):
        return None
    embedded = tuple(map(_stored_form, branch.embedded_baskets))
    count = int(branch.num_baskets) - len(embedded)
    edges = np.array(branch.entry_offsets, np.int64)
    seek, size = (np.array(branch.member(name)[:count], np.int64) for name in ("fBasketSeek", "fBasketBytes"))
    valid = len(seek) == len(size) == count == len(edges) - 1 - len(embedded) and (seek > 0).all() and (size > 0).all()
    if not valid or edges[0] != 0 or edges[-1] < branch.tree.num_entries or (np.diff(edges) < 0).any():
        return None
    if jagged:
        return BasketLayout(dtype, None, interpretation.header_bytes, edges, seek, size, embedded)
    return BasketLayout(dtype, (math.prod(shape),) if shape else (), 0, edges, seek, size, embedded)


def _stored_form(basket: Any) -> memoryview:
    """Return the bytes of one of uproot's embedded baskets."""
    starts = basket.byte_offsets
    offsets = b"" if starts is None else (starts[:-1] + SHORTEST_KEY).astype(">i4").tobytes()
    return stored_basket(basket.num_entries, SHORTEST_KEY, basket.data.tobytes(), offsets)


def decode(layout: BasketLayout, index: int, basket: memoryview) -> Values:
    """Return the values of a basket in native byte order, given its bytes, including its key.

    Returns:
        Array of shape (entries,) or (entries, size), or `Jagged` for lists.

    Raises:
        UnsupportedBasket: the bytes are damaged, or do not match the layout.
    """
    entries = int(layout.edges[index + 1] - layout.edges[index])
    if len(basket) < SHORTEST_KEY:
        raise UnsupportedBasket("a basket is too short")
    total, _, length, _, key, _ = KEY.unpack_from(basket)
    if total != len(basket) or not SHORTEST_KEY <= key <= total:
        raise UnsupportedBasket("the length of a basket's key differs from that in the tree")
    *_, stored_entries, last = BASKET.unpack_from(basket, key - BASKET.size - 1)
    border = last - key
    if stored_entries != entries or not 0 <= border <= length:
        raise UnsupportedBasket(f"a basket has {stored_entries} entries instead of {entries}")
    try:
        data = memoryview(decompress(basket[key:], length))
    except DamagedBlock as error:
        raise UnsupportedBasket(str(error)) from error
    if layout.shape is not None:
        return _plain(layout, layout.shape, data[:border], entries)
    if length - border != 4 * (entries + 2):
        raise UnsupportedBasket("the offsets of a basket of lists are missing or incomplete")
    starts = np.frombuffer(data, ">i4", entries + 1, border + 4) - np.int32(key)  # their number precedes them
    starts[-1] = border
    return _lists(layout, data[:border], starts)


def _plain(layout: BasketLayout, shape: tuple[int, ...], data: Any, entries: int) -> np.ndarray:
    if len(data) != entries * math.prod(shape) * layout.dtype.itemsize:
        raise UnsupportedBasket(f"a basket of {entries} entries has {len(data)} bytes")
    return _native(np.frombuffer(data, layout.dtype)).reshape(entries, *shape)


def _lists(layout: BasketLayout, data: Any, starts: np.ndarray) -> Jagged:
    """Read lists, given the offsets of their first bytes, int32 (entries + 1,)."""
    ends = starts - layout.header * np.arange(len(starts), dtype=np.int32) if layout.header else starts
    item = layout.dtype.itemsize  # a power of 2
    if starts[0] != 0 or (ends[1:] < ends[:-1]).any() or (np.bitwise_or.reduce(ends) & (item - 1)):
        raise UnsupportedBasket("the offsets of a basket of lists are invalid")
    offsets = (ends >> (item.bit_length() - 1)).astype(np.int64)
    if not layout.header:
        return Jagged(offsets, _native(np.frombuffer(data, layout.dtype)))
    keep = np.ones(len(data), bool)
    keep[(starts[:-1, None] + np.arange(layout.header)).reshape(-1)] = False
    return Jagged(offsets, _native(np.frombuffer(data, np.uint8)[keep].view(layout.dtype)))


def _native(numbers: np.ndarray) -> np.ndarray:
    return canonical_bools(numbers.astype(numbers.dtype.newbyteorder("="), copy=False))
