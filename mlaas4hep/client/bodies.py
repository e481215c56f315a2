"""Bodies of requests that are read from disk while they are sent, with a bar where they are large.

    with open("model.tar.gz", "rb") as file, shown(FileBody(file), "sending model.tar.gz") as body:
        session.post(url, data=body)

The length is known beforehand (`len(body)`), so that no server needs to take chunked requests. Forms are in
`multipart`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, Protocol

from mlaas4hep import console
from mlaas4hep.errors import FileUnreadable

PIECE = 3 << 18
"""Bytes that are read at a time: a multiple of 3, which is what base64 turns into 4 letters."""

LARGE = 10_000_000
"""Bytes; a body of more gets a bar."""


class Body(Protocol):
    """What is sent; may be iterated more than once."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes, from the first."""


class FileBody:
    """An open file, as long as it is now."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.flush()
        self._stamp = stamp_of(file)

    def __len__(self) -> int:
        return self._stamp.size

    def __iter__(self) -> Iterator[bytes]:
        yield from pieces(self._file, self._stamp)


class Stamp(NamedTuple):
    """What changes when a file is written to, or replaced by another one.

    Attributes:
        size: bytes.
    """

    size: int
    modified: int
    inode: int


def stamp_of(file: BinaryIO) -> Stamp:
    """Return the stamp of an open file."""
    status = os.fstat(file.fileno())
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def pieces(file: BinaryIO, stamp: Stamp) -> Iterator[bytes]:
    """Yield the content of an open file from its first byte.

    Raises:
        FileUnreadable: the file is not the one that the stamp was taken of. The last piece is not sent then, so the
            server never has a whole body.
    """
    file.seek(0)
    left = stamp.size
    while left > 0:
        piece = file.read(min(left, PIECE))
        left -= len(piece)
        if not piece or (not left and stamp_of(file) != stamp):
            raise FileUnreadable(
                f"{getattr(file, 'name', 'the file')} changed while it was sent",
                hint="send it again when nothing writes to it any more",
            )
        yield piece


@contextmanager
def shown(body: Body, title: str) -> Iterator[Body]:
    """Give a body that shows in a terminal how much of it was sent, if it is large."""
    if len(body) <= LARGE:
        yield body
        return
    with console.progress(title, len(body), "B", delay=0) as bar:
        yield _Counted(body, bar.advance)


class _Counted:
    def __init__(self, body: Body, advance: Callable[[int], None]) -> None:
        self._body = body
        self._advance = advance
        self._sent = 0

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        self._advance(-self._sent)  # where it is sent again
        self._sent = 0
        for piece in self._body:
            yield piece
            self._sent += len(piece)
            self._advance(len(piece))
