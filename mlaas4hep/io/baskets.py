"""Baskets of numbers → NumPy arrays, without uproot's machinery for everything else.

    plan = plan_of(tree["Muon_pt"])                                 # None: a job for uproot
    decode(plan, 3, memory_of_basket_3)                             # what one basket holds

uproot parses the file and its types; this module takes the bytes of one basket from there: checks its key, inflates it,
and gives its numbers in native byte order. It knows baskets of plain numbers, of fixed-size arrays and of lists of
numbers. It believes nothing: whatever is not as expected raises `Unexpected`, and then uproot has the last word.

The format: TBasket and TKey in ROOT's TFile specification (root.cern/root/htmldoc, "TFile: logical record format").
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.io.byte_ranges import Place
from mlaas4hep.io.columns import Jagged, Values
from mlaas4hep.io.compression import DamagedBlock, decompress

_KEY = struct.Struct(">ihiIhh")  # fNbytes, fVersion, fObjlen, fDatime, fKeylen, fCycle
_BASKET = struct.Struct(">Hiiii")  # fVersion, fBufferSize, fNevBufSize, fNevBuf, fLast; behind it one byte of flags


class Unexpected(Exception):
    """A basket is not what this module knows how to read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the baskets of a branch lie and what is in them.

    Attributes:
        dtype: of one number as the file has it, big-endian.
        shape: of what an event has: () for one number, (n,) for a fixed-size array; None for lists.
        header: bytes in front of every list.
        edges: int64 (baskets + 1,), basket i holds the entries edges[i] <= entry < edges[i + 1].
        seek, bytes: int64 (baskets on their own,), where its key begins in the file and its length with the key.
        embedded: the baskets behind those, which lie in the record of the tree, as uproot has them.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    header: int
    edges: np.ndarray
    seek: np.ndarray
    bytes: np.ndarray
    embedded: tuple[Any, ...] = ()

    @property
    def native(self) -> np.dtype[Any]:
        """The type of one number in native byte order."""
        native: np.dtype[Any] = self.dtype.newbyteorder("=")
        return native

    @property
    def constants(self) -> tuple[int, int, int]:
        """What the compiled loop must know of each basket: bytes of a number, numbers an entry, header of lists."""
        return self.dtype.itemsize, -1 if self.shape is None else math.prod(self.shape), self.header

    def place(self, index: int) -> Place:
        """Return where a basket begins in the file, and its length."""
        return int(self.seek[index]), int(self.bytes[index])

    def overlap(self, start: int, stop: int) -> range:
        """Return the baskets that hold the entries start <= i < stop, at least one."""
        first, last = np.searchsorted(self.edges, [start, stop - 1], "right")
        return range(int(first) - 1, int(last))


def plan_of(branch: Any) -> Plan | None:
    """Return the plan for one of uproot's branches; None where it holds something else, or lies elsewhere."""
    interpretation = branch.interpretation
    jagged = type(interpretation) is AsJagged
    content = interpretation.content if jagged else interpretation
    if type(content) is not AsDtype or content.from_dtype.base.newbyteorder("=") != content.to_dtype.base:
        return None
    dtype, shape = content.from_dtype.base, content.from_dtype.shape
    if dtype.kind not in "biuf" or (jagged and shape) or len(branch.member("fLeaves")) != 1:
        return None
    embedded = tuple(branch.embedded_baskets)
    count = int(branch.num_baskets) - len(embedded)
    edges = np.array(branch.entry_offsets, np.int64)
    seek, size = (np.array(branch.member(name)[:count], np.int64) for name in ("fBasketSeek", "fBasketBytes"))
    whole = len(seek) == len(size) == count == len(edges) - 1 - len(embedded) and (seek > 0).all() and (size > 0).all()
    if not whole or edges[0] != 0 or edges[-1] != branch.tree.num_entries or (np.diff(edges) < 0).any():
        return None
    return Plan(
        dtype,
        None if jagged else (math.prod(shape),) if shape else (),
        interpretation.header_bytes if jagged else 0,
        edges,
        seek,
        size,
        embedded,
    )


def decode(plan: Plan, index: int, basket: memoryview) -> Values:
    """Return what a basket holds, numbers in native byte order.

    Args:
        plan: of the branch.
        index: which of its baskets.
        basket: its bytes, key included.

    Returns:
        (entries,) or (entries, size), or a `Jagged` where these are lists.

    Raises:
        Unexpected: the bytes are damaged, or not what the plan promises.
    """
    entries = int(plan.edges[index + 1] - plan.edges[index])
    if len(basket) < _KEY.size + _BASKET.size + 1:
        raise Unexpected("a basket is too short")
    total, _, length, _, key, _ = _KEY.unpack_from(basket)
    if total != len(basket) or not _KEY.size + _BASKET.size < key <= total:
        raise Unexpected("a basket's key is of another length than the tree says")
    *_, held, last = _BASKET.unpack_from(basket, key - _BASKET.size - 1)
    border = last - key
    if held != entries or not 0 <= border <= length:
        raise Unexpected(f"a basket holds {held} entries, not {entries}")
    try:
        data = memoryview(decompress(basket[key:], length))
    except DamagedBlock as error:
        raise Unexpected(str(error)) from error
    if plan.shape is not None:
        return _plain(plan, plan.shape, data[:border], entries)
    if length - border != 4 * (entries + 2):
        raise Unexpected("a basket of lists has no offsets, or another number of them")
    starts = np.frombuffer(data, ">i4", entries + 1, border + 4) - np.int32(key)  # in front stands how many there are
    starts[-1] = border
    return _lists(plan, data[:border], starts)


def decode_embedded(plan: Plan, index: int) -> Values:
    """Return what a basket holds that uproot has in memory already; see `decode`."""
    basket = plan.embedded[index - len(plan.seek)]
    entries = int(plan.edges[index + 1] - plan.edges[index])
    data = np.ascontiguousarray(basket.data).data
    if plan.shape is not None:
        return _plain(plan, plan.shape, data, entries)
    starts = basket.byte_offsets
    if starts is None or len(starts) != entries + 1 or starts[-1] != len(data):
        raise Unexpected("a basket of lists has no offsets, or another number of them")
    return _lists(plan, data, starts)


def _plain(plan: Plan, shape: tuple[int, ...], data: Any, entries: int) -> np.ndarray:
    if len(data) != entries * math.prod(shape) * plan.dtype.itemsize:
        raise Unexpected(f"a basket of {entries} entries holds {len(data)} bytes")
    return _native(np.frombuffer(data, plan.dtype)).reshape(entries, *shape)


def _lists(plan: Plan, data: Any, starts: np.ndarray) -> Jagged:
    """Read lists that begin at the bytes `starts`, int32 (entries + 1,), of the data."""
    ends = starts - plan.header * np.arange(len(starts), dtype=np.int32) if plan.header else starts
    item = plan.dtype.itemsize  # a power of 2
    if starts[0] != 0 or (ends[1:] < ends[:-1]).any() or (np.bitwise_or.reduce(ends) & (item - 1)):
        raise Unexpected("a basket of lists has offsets that make no sense")
    offsets = (ends >> (item.bit_length() - 1)).astype(np.int64)
    if not plan.header:
        return Jagged(offsets, _native(np.frombuffer(data, plan.dtype)))
    keep = np.ones(len(data), bool)
    keep[(starts[:-1, None] + np.arange(plan.header)).reshape(-1)] = False
    return Jagged(offsets, _native(np.frombuffer(data, np.uint8)[keep].view(plan.dtype)))


def _native(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
