"""Many stretches of bytes of one file in few requests.

    LocalRanges("data.root").read([(300, 1_000), (1_300, 500)])     # one system call

Neighbours are read together, since baskets that are wanted together mostly lie side by side. What lies on servers is
`remote`'s business, and what lies on several of them that of `replicas`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np

from mlaas4hep.errors import FileUnreadable, Unreachable
from mlaas4hep.io.recycler import MEMORY

Place = tuple[int, int]
"""Where a stretch begins, and its length, in bytes."""

Stretch = tuple[int, int, list[Place]]
"""Where it begins, its length, and the places within."""

GAP = 32_768
"""Bytes that nobody asked for are read along where that saves a request."""

LONGEST = 16_000_000
"""Bytes that are read at a time."""

SHORT = 4_000_000
"""Bytes that servers are asked for at a time, so that a slow line answers in time."""


class ByteRanges(Protocol):
    """A file as bytes; threads may call it at once.

    Attributes:
        location: where it lies, fit to be shown.
        size: its length.
    """

    @property
    def location(self) -> str:
        """See above."""

    @property
    def size(self) -> int:
        """See above."""

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """Return the bytes at some places.

        Raises:
            OSError: they cannot be had, or the file ends before.
        """

    def refuse(self, location: str, reason: str) -> bool:
        """Take note that the bytes from a place make no sense; return whether the next `read` goes to another."""

    def close(self) -> None:
        """Give back the file."""


class FileChanged(Unreachable):
    """A file was written to while it was being read, so that its events would come from two files."""


class LocalRanges:
    """A file on disk, which nobody may write to while it is open."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            FileUnreadable: there is no such file, or it cannot be read.
        """
        self.location = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise FileUnreadable(f"cannot read {path}: {error.strerror or error}") from error
        status = os.fstat(self._file)
        self.size, self._modified = status.st_size, status.st_mtime_ns

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`.

        Raises:
            FileChanged: it has another size or time of modification than when it was opened.
        """
        found: dict[Place, memoryview] = {}
        for start, length, members in join(places, self.size):
            memory = MEMORY.empty((length,), np.uint8)
            count = os.preadv(self._file, [memory.data], start)
            status = os.fstat(self._file)
            if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
                raise changed(self.location)
            found.update(cut(memory.data[:count], start, length, members))
        return found

    def refuse(self, location: str, reason: str) -> bool:
        """Return False: there is but one such file."""
        return False

    def close(self) -> None:
        """See `ByteRanges`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def changed(location: str) -> FileChanged:
    """Return the error for a file that was written to while it was being read."""
    return FileChanged(f"{location} changed while it was read", hint="start again when nothing writes to it any more")


class RangeFile(io.RawIOBase):
    """Bytes as a file that libraries can read and seek in."""

    def __init__(self, ranges: ByteRanges) -> None:
        """Read from a file that somebody else closes."""
        super().__init__()
        self._ranges = ranges
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, counted from the beginning, from here, or from the end."""
        self._position = offset + (0, self._position, self._ranges.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as the file goes; return how many bytes came."""
        target = memoryview(buffer).cast("B")
        length = max(min(len(target), self._ranges.size - self._position), 0)
        if length:
            place = (self._position, length)
            target[:length] = self._ranges.read([place])[place]
        self._position += length
        return length


def join(places: Iterable[Place], size: int, gap: int = GAP, longest: int = LONGEST) -> Iterator[Stretch]:
    """Join neighbours; yield every stretch that is to be read, in order.

    Raises:
        OSError: the file, of `size` bytes, ends before.
    """
    begin = end = 0
    members: list[Place] = []
    for start, length in sorted(places):
        if start < 0 or length < 0 or start + length > size:
            raise OSError(f"the file ends at byte {size}, before byte {start + length}")
        if members and (start > end + gap or max(end, start + length) - begin > longest):
            yield begin, end - begin, members
            members = []
        if not members:
            begin = end = start
        members.append((start, length))
        end = max(end, start + length)
    if members:
        yield begin, end - begin, members


def stretches(starts: np.ndarray, lengths: np.ndarray) -> tuple[list[Place], np.ndarray, np.ndarray]:
    """Join very many neighbours, without a word about each of them; see `join`.

    Args:
        starts, lengths: int64 (places,), at least one.

    Returns:
        What is to be read; and for every place, int64 (places,), the number of its stretch, and where in that it lies.
    """
    order = np.argsort(starts, kind="stable")
    begins = starts[order]
    ends = np.maximum.accumulate(begins + lengths[order])
    gaps = np.flatnonzero(begins[1:] > ends[:-1] + GAP) + 1
    firsts: list[int] = []  # the places with which stretches begin
    for first, stop in pairwise([0, *gaps.tolist(), len(order)]):
        while first < stop:
            firsts.append(first)
            full = first + int(np.searchsorted(ends[first:stop], begins[first] + SHORT, "right"))
            first = max(first + 1, full)
    counts = np.diff([*firsts, len(order)])
    which = np.empty(len(order), np.int64)
    which[order] = np.repeat(np.arange(len(firsts)), counts)
    origins = begins[firsts]
    sizes = ends[np.cumsum(counts) - 1] - origins
    return list(zip(origins.tolist(), sizes.tolist(), strict=True)), which, starts - origins[which]


def cut(content: bytes | memoryview, start: int, length: int, members: list[Place]) -> dict[Place, memoryview]:
    """Return the places within the content of a stretch.

    Raises:
        OSError: the content is shorter than it should be.
    """
    if len(content) != length:
        raise OSError(f"{len(content)} bytes came of the {length} from byte {start} on")
    memory = memoryview(content)
    return {place: memory[place[0] - start : place[0] - start + place[1]] for place in members}
