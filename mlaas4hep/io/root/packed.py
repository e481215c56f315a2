"""Unpack ROOT's Float16_t and Double32_t, which are stored with reduced precision.

    packing = packing_of(tree["d32"])                                   # None: not packed
    packing.unpack(tree["d32"].array(packing.interpretation, library="np"))

uproot 5.7 mistakes the dimensions of an array (`x[2]/d[0,1,20]`) for its range, and unpacks Float16_t in single
precision. This module follows ROOT: GetRange in TStreamerElement.cxx, ReadFastArrayWithFactor and
ReadFastArrayWithNbits in TBufferFile.cxx.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from uproot.const import kDouble32, kFloat16, kOffsetL, kOffsetP
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

PACKED_LEAVES = {"TLeafF16": kFloat16, "TLeafD32": kDouble32}
_VECTOR = re.compile(r"(?:std::)?vector<(Float16_t|Double32_t)>")
_VECTORS = {"Float16_t": kFloat16, "Double32_t": kDouble32}
_VECTOR_HEADER = 10
"""Bytes before the numbers of a vector: number of bytes, version, number of numbers."""

_DTYPES: dict[int, np.dtype[Any]] = {kFloat16: np.dtype(np.float32), kDouble32: np.dtype(np.float64)}
_DEFAULT_BITS = {kFloat16: 12, kDouble32: 0}
"""Default number of mantissa bits; 0 means float32."""

_DIMENSION = re.compile(r"\[([1-9]\d*)\]")
_BRACKETS = re.compile(r"\[([^\]]*)\]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_PIS = {"2pi": 2.0, "2*pi": 2.0, "twopi": 2.0, "pi/2": 0.5, "pi/4": 0.25, "pi": 1.0}
"""ROOT's spellings of multiples of pi; the first one that occurs in the text applies."""


@dataclass(frozen=True, slots=True)
class Packing:
    """The packing of the numbers of a branch.

    Attributes:
        dtype: type of the unpacked numbers.
        shape: shape per entry, or per item of a list.
        is_list: whether an entry is a list.
        header: number of bytes before each list.
        low, steps: if steps is not 0, a number is stored as (number - low) * steps.
        bits: number of mantissa bits, if steps is 0; if it is 0 too, numbers are stored as float32.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_list: bool
    header: int
    low: float
    steps: float
    bits: int

    @property
    def interpretation(self) -> Any:
        """The uproot interpretation of the packed data: (..., 3) bytes if there are bits, else (...) numbers."""
        stored, more = (">u4", ()) if self.steps else ("u1", (3,)) if self.bits else (">f4", ())
        content = AsDtype(np.dtype((stored, (*self.shape, *more))))
        return AsJagged(content, header_bytes=self.header) if self.is_list else content

    def unpack(self, raw: np.ndarray) -> np.ndarray:
        """Return the numbers, of type `dtype`, given the data that were read with `interpretation`."""
        if self.steps:
            return (raw / self.steps + self.low).astype(self.dtype, copy=False)
        if not self.bits:
            return raw.astype(self.dtype)
        exponent, upper, lower = (raw[..., index].astype(np.uint32) for index in range(3))
        mantissa = upper << 8 | lower
        bits = exponent << 23 | (mantissa & (1 << self.bits + 1) - 1) << 23 - self.bits
        sign = (mantissa >> self.bits + 1 & 1) << 31
        return (bits ^ sign).view(np.float32).astype(self.dtype, copy=False)


def packing_of(branch: Any) -> Packing | None:
    """Return the packing of one of uproot's branches; None if its numbers are not packed."""
    leaves = branch.member("fLeaves")
    if len(leaves) != 1 or branch.branches:
        return None
    (leaf,) = leaves
    is_list = leaf.member("fLeafCount") is not None
    if leaf.classname != "TLeafElement":
        kind, comment = PACKED_LEAVES.get(leaf.classname), leaf.member("fTitle")
    elif (vector := _VECTOR.fullmatch(_class_of(branch))) and not is_list:
        kind = _VECTORS[vector[1]]
        return Packing(_DTYPES[kind], (), True, _VECTOR_HEADER, 0.0, 0.0, _DEFAULT_BITS[kind])
    else:
        kind, comment = leaf.member("fType"), getattr(branch.streamer, "title", "")
        kind = kind - kOffsetL if kOffsetL < kind < kOffsetP else kind
    if kind not in _DTYPES:
        return None
    shape = tuple(map(int, _DIMENSION.findall(leaf.member("fTitle"))))
    length = int(leaf.member("fLen"))
    if length > 1 and length != math.prod(shape):  # the title of a leaf may lack dimensions
        shape = (length,)
    return packing_from(kind, comment, shape, is_list)


def packing_from(kind: int, comment: str, shape: tuple[int, ...], is_list: bool = False) -> Packing:
    """Return the packing of numbers, given their type (kFloat16, kDouble32) and a comment with an optional range."""
    low, high, bits = _range(comment)
    if low < high:
        steps = (2**bits if bits < 32 else 2**32 - 1) / (high - low)
        return Packing(_DTYPES[kind], shape, is_list, 0, low, steps, 0)
    return Packing(_DTYPES[kind], shape, is_list, 0, 0.0, 0.0, bits if bits < 15 else _DEFAULT_BITS[kind])


def _class_of(branch: Any) -> str:
    if branch.top_level:
        return str(branch.member("fClassName", none_if_missing=True))
    return str(getattr(branch.streamer, "typename", ""))


def _range(title: str) -> tuple[float, float, int]:
    """Parse minimum, maximum and number of bits in the brackets of a title. Brackets with dimensions may precede."""
    for text in _BRACKETS.findall(title):
        low, comma, rest = text.partition(",")
        if comma:
            high, _, bits = rest.partition(",")
            return _number(low), _number(high), _bits(bits)
    return 0.0, 0.0, 32


def _number(text: str) -> float:
    text = text.lower().replace(" ", "")
    for name, times in _PIS.items():
        if name in text:
            return math.copysign(times * math.pi, -1.0 if "-" in text else 1.0)
    number = _NUMBER.match(text)
    return float(number[0]) if number else 0.0


def _bits(text: str) -> int:
    number = re.match(r"\s*\d+", text)
    bits = int(number[0]) if number else 32
    return bits if 2 <= bits <= 32 else 32
