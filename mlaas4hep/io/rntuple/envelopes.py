"""Read the anchor of an RNTuple, and the frames in its header, footer and page lists.

    anchor = read_anchor(read_object(ranges, key))
    frames = open_envelope(content, EnvelopeKind.HEADER); frames.number(U64); frames.records()

The format: "Anchor schema", "Frames", "Locators and Envelope Links" and "Envelopes" in ROOT's RNTuple Binary Format
Specification 1.0. All numbers are little-endian except those of the anchor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import xxhash

from mlaas4hep.io.rntuple.encodings import UnsupportedRNTuple
from mlaas4hep.io.root.compression import decompress
from mlaas4hep.io.storage.byte_ranges import Span

U32, U64, I32, I64 = (struct.Struct(f"<{letter}") for letter in "IQiq")

CHECKSUM = 8
"""Bytes of the XXH3 checksum after an envelope, a page or an anchor."""

MAX_RATIO = 1000
"""Largest accepted ratio of decompressed to stored bytes of an envelope, which is mostly text and positions."""

_ANCHOR = struct.Struct(">HHHHQQQQQQQ")
_STREAMER = 6
"""Bytes before the anchor: its length and its version."""

_LARGE = 1
"""Type of locators with a 64-bit size."""


class DamagedMetadata(Exception):
    """The metadata of an RNTuple are damaged."""


class EnvelopeKind(IntEnum):
    """What an envelope contains."""

    HEADER = 1
    FOOTER = 2
    PAGE_LIST = 3


class Link(NamedTuple):
    """Location of an envelope: first byte, stored size, and size after decompression."""

    seek: int
    size: int
    length: int

    @property
    def span(self) -> Span:
        """First byte and length of the stored envelope."""
        return self.seek, self.size


class Anchor(NamedTuple):
    """The anchor of an RNTuple: major version of its format, and where its header and footer are."""

    header: Link
    footer: Link
    minor: int


def read_anchor(content: bytes) -> Anchor:
    """Parse the content of the object of class ROOT::RNTuple.

    Raises:
        DamagedMetadata: the checksum is wrong.
        UnsupportedRNTuple: the version of the format is unknown.
    """
    if len(content) != _STREAMER + _ANCHOR.size + CHECKSUM:
        raise UnsupportedRNTuple("an anchor of unknown length")
    anchor = content[_STREAMER:-CHECKSUM]
    if xxhash.xxh3_64_digest(anchor) != content[-CHECKSUM:]:
        raise DamagedMetadata("the checksum of its anchor is wrong")
    epoch, major, minor, _, *places = _ANCHOR.unpack(anchor)
    if (epoch, major) != (1, 0):
        raise UnsupportedRNTuple(f"version {epoch}.{major} of the format")
    return Anchor(Link(*places[:3]), Link(*places[3:6]), minor)


def unpack_envelope(stored: memoryview, link: Link, kind: EnvelopeKind) -> bytes:
    """Decompress an envelope; raise DamagedMetadata if its length, its kind or its checksum is wrong."""
    if not 2 * CHECKSUM <= link.length <= MAX_RATIO * max(link.size, 1):
        raise DamagedMetadata(f"{link.size} bytes of metadata cannot hold {link.length} bytes")
    content = bytes(decompress(stored, link.length))
    (head,) = U64.unpack_from(content)
    if head & 0xFFFF != kind or head >> 16 != link.length:
        raise DamagedMetadata("the beginning of its metadata is wrong")
    if xxhash.xxh3_64_digest(content[:-CHECKSUM])[::-1] != content[-CHECKSUM:]:
        raise DamagedMetadata("the checksum of its metadata is wrong")
    return content


class Frames:
    """A part of an envelope with a current position. All methods raise an exception if it is damaged."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        """Start at byte `at` of `data`; the part ends before byte `end`."""
        self.data = data
        self.at = at
        self.end = end

    def numbers(self, form: struct.Struct) -> tuple[Any, ...]:
        """Read numbers."""
        at = self.at
        self.at = at + form.size
        if self.at > self.end:
            raise DamagedMetadata("its metadata end too early")
        return form.unpack_from(self.data, at)

    def number(self, form: struct.Struct) -> Any:
        """Read one number."""
        return self.numbers(form)[0]

    def text(self) -> bytes:
        """Read a string, in UTF-8."""
        (length,) = U32.unpack_from(self.data, self.at)
        at = self.at + U32.size
        self.at = at + length
        if self.at > self.end:
            raise DamagedMetadata("its metadata end too early")
        return self.data[at : self.at]

    def record(self) -> Frames:
        """Return the content of the record frame at this position, and advance past it."""
        size = self.number(I64)
        start = self.at - I64.size
        if size < I64.size or start + size > self.end:
            raise DamagedMetadata("a record in its metadata is damaged")
        self.at = start + size
        return Frames(self.data, start + I64.size, self.at)

    def items(self) -> tuple[Frames, int]:
        """Return the content of the list frame at this position and its number of items, and advance past it."""
        size = -self.number(I64)
        start = self.at - I64.size
        if size < I64.size + U32.size or start + size > self.end:
            raise DamagedMetadata("a list in its metadata is damaged")
        self.at = start + size
        frames = Frames(self.data, start + I64.size, self.at)
        return frames, int(frames.number(U32))

    def records(self) -> Iterator[Frames]:
        """Yield the content of each record in the list frame at this position."""
        frames, count = self.items()
        for _ in range(count):
            yield frames.record()

    def link(self) -> Link:
        """Read a link to an envelope."""
        length = self.number(U64)
        size = self.number(I32)
        if size < 0:
            if -size >> 24 != _LARGE:
                raise UnsupportedRNTuple(f"unknown locator type {-size >> 24}")
            size = self.number(U64)
        return Link(int(self.number(U64)), int(size), int(length))
