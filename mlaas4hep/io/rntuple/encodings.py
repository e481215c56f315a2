"""The encodings of the columns of an RNTuple.

    encoding_of(0x18, 32)        # split floats: Code.SPLIT, 32 bits, decoded to float32

The format: "Column Encoding" and "Column Description" in ROOT's RNTuple Binary Format Specification 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np


class UnsupportedRNTuple(Exception):
    """The RNTuple has a feature that this package does not support."""


class Code(IntEnum):
    """How the elements of a page are stored (`Code` in `kernel_pages.cpp`)."""

    ZERO = 0
    """Not stored: zeros for the entries before the field was added."""
    PLAIN = 1
    """Little-endian numbers."""
    BIT = 2
    """One bit per element, the lowest bit first."""
    SPLIT = 3
    """The first bytes of all elements, then their second bytes, and so on."""
    ZIGZAG = 4
    """As SPLIT, with the sign in the lowest bit."""
    INDEX = 5
    """Offsets: the end of each list, relative to the beginning of the cluster; decoded to int64."""
    DELTA = 6
    """As INDEX and SPLIT, each offset stored as the difference from the previous one in the page."""
    TRUNCATED = 7
    """The upper bits of float32."""
    QUANTISED = 8
    """Integers that divide a range into equal steps; decoded to float32."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a column is stored.

    Attributes:
        code: how its elements are stored.
        bits: bits per stored element.
        dtype: type of the decoded elements, in native byte order.
        declared: type of the numbers in the format; it differs from `dtype` for offsets.
        low, high: range of QUANTISED.
        is_char: whether the elements are characters.
    """

    code: Code
    bits: int
    dtype: np.dtype[Any]
    declared: np.dtype[Any]
    low: float = 0.0
    high: float = 0.0
    is_char: bool = False

    @property
    def is_index(self) -> bool:
        """Whether the elements are offsets (ends of lists)."""
        return self.code in (Code.INDEX, Code.DELTA)


_CHAR, _SWITCH = 0x02, 0x10

_NUMBERS: dict[int, tuple[Code, str]] = {
    0x00: (Code.BIT, "?"),
    0x01: (Code.PLAIN, "u1"),
    _CHAR: (Code.PLAIN, "i1"),
    0x03: (Code.PLAIN, "i1"),
    0x04: (Code.PLAIN, "u1"),
    0x05: (Code.PLAIN, "i2"),
    0x06: (Code.PLAIN, "u2"),
    0x07: (Code.PLAIN, "i4"),
    0x08: (Code.PLAIN, "u4"),
    0x09: (Code.PLAIN, "i8"),
    0x0A: (Code.PLAIN, "u8"),
    0x0B: (Code.PLAIN, "f2"),
    0x0C: (Code.PLAIN, "f4"),
    0x0D: (Code.PLAIN, "f8"),
    0x0E: (Code.INDEX, "i4"),
    0x0F: (Code.INDEX, "i8"),
    0x11: (Code.ZIGZAG, "i2"),
    0x12: (Code.SPLIT, "u2"),
    0x13: (Code.ZIGZAG, "i4"),
    0x14: (Code.SPLIT, "u4"),
    0x15: (Code.ZIGZAG, "i8"),
    0x16: (Code.SPLIT, "u8"),
    0x17: (Code.SPLIT, "f2"),
    0x18: (Code.SPLIT, "f4"),
    0x19: (Code.SPLIT, "f8"),
    0x1A: (Code.DELTA, "i4"),
    0x1B: (Code.DELTA, "i8"),
    0x1C: (Code.TRUNCATED, "f4"),
    0x1D: (Code.QUANTISED, "f4"),
}
"""Encoding and type of the numbers, by column type."""

_WIDTHS = {Code.TRUNCATED: range(10, 32), Code.QUANTISED: range(1, 33)}
"""Bits per element of encodings whose width varies."""


@lru_cache(maxsize=256)
def encoding_of(kind: int, bits: int, low: float = 0.0, high: float = 0.0) -> Encoding | None:
    """Return how columns of a type are stored; None for the switch column of a variant.

    Raises:
        UnsupportedRNTuple: the type, or its number of bits, is unknown.
    """
    if kind == _SWITCH:
        return None
    if kind not in _NUMBERS:
        raise UnsupportedRNTuple(f"unknown column type {kind:#x}")
    code, name = _NUMBERS[kind]
    declared = np.dtype(name)
    width = 1 if code is Code.BIT else 8 * declared.itemsize
    if bits not in _WIDTHS.get(code, (width,)):
        raise UnsupportedRNTuple(f"a column of type {kind:#x} has {bits} bits per element")
    decoded = np.dtype(np.int64) if code in (Code.INDEX, Code.DELTA) else declared
    return Encoding(code, bits, decoded, declared, low, high, kind == _CHAR)
