"""Bodies of requests that are read from disk while they are sent, with a bar where they are large.

    with open("model.tar.gz", "rb") as file, shown(FileBody(file), "sending model.tar.gz") as body:
        session.post(url, data=body)

The length is known beforehand (`len(body)`), so that no server needs to take chunked requests. Forms are in
`multipart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

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
        self._size = file.seek(0, 2)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        yield from pieces(self._file, self._size)


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes from where the file stands.

    Raises:
        FileUnreadable: there are fewer.
    """
    while size > 0 and (piece := file.read(min(size, PIECE))):
        size -= len(piece)
        yield piece
    if size:
        raise FileUnreadable(f"{getattr(file, 'name', 'the file')} became shorter while it was sent")


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
