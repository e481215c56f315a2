"""Read many byte ranges of a file with few requests.

    LocalRanges("data.root").read([(300, 1_000), (1_300, 500)])     # one system call

Ranges that are close to each other are merged, because baskets that are read together are mostly stored together.
`remote` reads files on servers, `replicas` files with several locations.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np

from mlaas4hep.errors import FileUnreadable, Unreachable
from mlaas4hep.io.buffer_pool import BUFFER_POOL

Span = tuple[int, int]
"""First byte and length of a byte range."""

MergedSpan = tuple[int, int, list[Span]]
"""First byte, length, and the spans that were merged."""

GAP = 32_768
"""Maximum number of unneeded bytes between two spans that are read to save a request."""

MAX_LOCAL = 16_000_000
"""Maximum number of bytes of one read from disk."""

MAX_REMOTE = 4_000_000
"""Maximum number of bytes of one request to a server, so that slow connections respond before the timeout."""


class ByteRanges(Protocol):
    """An open file that is read by byte ranges. It is thread-safe."""

    @property
    def location(self) -> str:
        """Path or URL of the file, without credentials."""

    @property
    def size(self) -> int:
        """Length of the file in bytes."""

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        """Return the bytes of some spans.

        Raises:
            OSError: the file cannot be read, or a span extends past its end.
        """

    def reject(self, location: str, reason: str) -> bool:
        """Report that the bytes from a location are damaged. Return whether the next `read` uses another location."""

    def close(self) -> None:
        """Close the file."""


class FileChanged(Unreachable):
    """A file was modified while it was read."""


class SingleLocation:
    """Base class of files that have one location."""

    def reject(self, location: str, reason: str) -> bool:
        """Return False, because there is no other location."""
        return False


class LocalRanges(SingleLocation):
    """A file on disk, which must not be modified while it is open."""

    def __init__(self, path: str) -> None:
        """Open the file; raise FileUnreadable if it does not exist, or cannot be read."""
        self.location = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise FileUnreadable(f"cannot read {path}: {error.strerror or error}") from error
        status = os.fstat(self._file)
        self.size, self._modified = status.st_size, status.st_mtime_ns

    def read(self, spans: Iterable[Span]) -> Mapping[Span, memoryview]:
        """See `ByteRanges`.

        Raises:
            FileChanged: the size or modification time of the file changed after it was opened.
        """
        contents: dict[Span, memoryview] = {}
        for start, length, members in merge_spans(spans, self.size):
            memory = BUFFER_POOL.empty((length,), np.uint8)
            count = os.preadv(self._file, [memory.data], start)
            status = os.fstat(self._file)
            if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
                raise file_changed(self.location)
            contents.update(split_content(memory.data[:count], start, length, members))
        return contents

    def close(self) -> None:
        """See `ByteRanges`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def file_changed(location: str) -> FileChanged:
    """Return the error for a file that was modified while it was read."""
    return FileChanged(f"{location} changed while it was read", hint="run again when the file is complete")


class RangeFile(io.RawIOBase):
    """A readable and seekable file object on top of `ByteRanges`, for libraries that need one."""

    def __init__(self, ranges: ByteRanges) -> None:
        """Read from `ranges`, which the caller closes."""
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
        """Change the position, relative to the beginning, the position or the end."""
        self._position = offset + (0, self._position, self._ranges.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, up to the end of the file. Return the number of bytes."""
        target = memoryview(buffer).cast("B")
        length = max(min(len(target), self._ranges.size - self._position), 0)
        if length:
            span = (self._position, length)
            target[:length] = self._ranges.read([span])[span]
        self._position += length
        return length


def merge_spans(spans: Iterable[Span], size: int, gap: int = GAP, limit: int = MAX_LOCAL) -> Iterator[MergedSpan]:
    """Merge spans that are close to each other, and yield the merged spans in the order of the file.

    Args:
        size: length of the file in bytes.
        gap: maximum number of unneeded bytes between merged spans.
        limit: maximum length of a merged span; a longer span is not merged.

    Raises:
        OSError: a span extends past the end of the file.
    """
    begin = end = 0
    members: list[Span] = []
    for start, length in sorted(spans):
        if start < 0 or length < 0 or start + length > size:
            raise OSError(f"the file ends at byte {size}, before byte {start + length}")
        if members and (start > end + gap or max(end, start + length) - begin > limit):
            yield begin, end - begin, members
            members = []
        if not members:
            begin = end = start
        members.append((start, length))
        end = max(end, start + length)
    if members:
        yield begin, end - begin, members


def merge_span_arrays(starts: np.ndarray, lengths: np.ndarray) -> tuple[list[Span], np.ndarray, np.ndarray]:
    """Merge spans, as `merge_spans` does, with NumPy; `starts` and `lengths` are int64 (spans,).

    Returns:
        The merged spans; the index of each span's merged span, int64 (spans,); and its offset therein, int64 (spans,).
    """
    order = np.argsort(starts, kind="stable")
    begins = starts[order]
    ends = np.maximum.accumulate(begins + lengths[order])
    gaps = np.flatnonzero(begins[1:] > ends[:-1] + GAP) + 1
    firsts: list[int] = []  # the first span of each merged span
    for first, stop in pairwise([0, *gaps.tolist(), len(order)]):
        while first < stop:
            firsts.append(first)
            full = first + int(np.searchsorted(ends[first:stop], begins[first] + MAX_REMOTE, "right"))
            first = max(first + 1, full)
    counts = np.diff([*firsts, len(order)])
    which = np.empty(len(order), np.int64)
    which[order] = np.repeat(np.arange(len(firsts)), counts)
    origins = begins[np.array(firsts, np.int64)]
    sizes = ends[np.cumsum(counts) - 1] - origins
    return list(zip(origins.tolist(), sizes.tolist(), strict=True)), which, starts - origins[which]


def split_content(content: bytes | memoryview, start: int, length: int, members: list[Span]) -> dict[Span, memoryview]:
    """Return the contents of the spans within a merged span; raise OSError if its content is incomplete."""
    if len(content) != length:
        raise OSError(f"received {len(content)} of {length} bytes at byte {start}")
    memory = memoryview(content)
    return {span: memory[span[0] - start : span[0] - start + span[1]] for span in members}
