"""Many stretches of bytes of one file in few requests.

    LocalRanges("data.root").read([(300, 1_000), (1_300, 500)])     # one system call

Neighbours are read together, since baskets that are wanted together mostly lie side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

Place = tuple[int, int]
"""Where a stretch begins, and its length, in bytes."""

GAP = 32_768
"""Bytes that nobody asked for are read along where that saves a request."""

LONGEST = 16_000_000
"""Bytes that are read at a time."""


class ByteRanges(Protocol):
    """A file as bytes; threads may call it at once."""

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """Return the bytes at some places.

        Raises:
            OSError: they cannot be had, or the file ends before.
        """

    def close(self) -> None:
        """Give back the file."""


class LocalRanges:
    """A file on disk."""

    def __init__(self, path: str) -> None:
        """Open it."""
        self._file = os.open(path, os.O_RDONLY)

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`."""
        groups = join(places)
        size = os.fstat(self._file).st_size
        found: dict[Place, memoryview] = {}
        for start, length, members in groups:
            if start + length > size:
                raise OSError(f"the file ends at byte {size}, before byte {start + length}")
            found.update(_cut(memoryview(os.pread(self._file, length, start)), start, length, members))
        return found

    def close(self) -> None:
        """See `ByteRanges`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class UprootRanges:
    """A file that uproot has open, wherever it lies."""

    def __init__(self, file: Any) -> None:
        """Take uproot's file, which somebody else closes."""
        self._source = file.file.source

    def read(self, places: Iterable[Place]) -> Mapping[Place, memoryview]:
        """See `ByteRanges`."""
        groups = join(places)
        if not groups:
            return {}
        ranges = [(start, start + length) for start, length, _ in groups]
        chunks = {(chunk.start, chunk.stop): chunk for chunk in self._source.chunks(ranges, SimpleQueue())}
        found: dict[Place, memoryview] = {}
        for start, length, members in groups:
            chunk = chunks[start, start + length]
            chunk.wait(insist=True)
            found.update(_cut(memoryview(chunk.raw_data), start, length, members))
        return found

    def close(self) -> None:
        """See `ByteRanges`."""


def join(places: Iterable[Place]) -> list[tuple[int, int, list[Place]]]:
    """Join neighbours; return (start, length, the places within) of every stretch that is to be read, in order."""
    groups: list[tuple[int, int, list[Place]]] = []
    for start, length in sorted(places):
        if groups:
            begin, size, members = groups[-1]
            end = max(begin + size, start + length)
            if start <= begin + size + GAP and end - begin <= LONGEST:
                members.append((start, length))
                groups[-1] = (begin, end - begin, members)
                continue
        groups.append((start, length, [(start, length)]))
    return groups


def _cut(memory: memoryview, start: int, length: int, members: list[Place]) -> dict[Place, memoryview]:
    if len(memory) != length:
        raise OSError(f"the file ends at byte {start + len(memory)}, before byte {start + length}")
    return {place: memory[place[0] - start : place[0] - start + place[1]] for place in members}
