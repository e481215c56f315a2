"""Request bodies that are read from disk while they are sent, with a progress bar for large ones.

    with open("model.tar.gz", "rb") as file, with_progress(FileBody(file), "sending model.tar.gz") as body:
        session.post(url, data=body)

The length is known in advance (`len(body)`), since some servers do not accept chunked requests. Forms are in
`multipart`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from mlaas4hep import console
from mlaas4hep.errors import FileUnreadable, MLaaS4HEPError
from mlaas4hep.input_files import check_is_file

CHUNK_SIZE = 3 << 18
"""Bytes read at a time: a multiple of 3, so that base64 of chunks is base64 of the file."""

PROGRESS_THRESHOLD = 10_000_000
"""Size in bytes from which a body gets a progress bar."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to send; raise FileUnreadable if it is not a regular file, or cannot be read."""
    check_is_file(path)
    with explained_reads(path), path.open("rb") as file:
        yield file


@contextmanager
def explained_reads(path: Path) -> Iterator[None]:
    """Raise FileUnreadable for other errors of the operating system."""
    try:
        yield
    except MLaaS4HEPError:
        raise
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from error


class Body(Protocol):
    """The body of a request; it can be iterated again for a retry."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield all bytes in chunks."""


class FileBody:
    """The content of an open file, with the length that it has now."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.flush()
        self._version = file_version(file)

    def __len__(self) -> int:
        return self._version.size

    def __iter__(self) -> Iterator[bytes]:
        yield from read_chunks(self._file, self._version)


class FileVersion(NamedTuple):
    """Properties that change when a file is modified or replaced.

    Attributes:
        size: bytes.
        modified: modification time in nanoseconds.
    """

    size: int
    modified: int
    inode: int


def file_version(file: BinaryIO) -> FileVersion:
    """Return the version of an open file."""
    status = os.fstat(file.fileno())
    return FileVersion(status.st_size, status.st_mtime_ns, status.st_ino)


def read_chunks(file: BinaryIO, version: FileVersion) -> Iterator[bytes]:
    """Yield the content of an open file from its first byte.

    Raises:
        FileUnreadable: the file no longer has this version. The last chunk is not sent then, so the server never gets
            a complete body.
    """
    file.seek(0)
    left = version.size
    while left > 0:
        chunk = file.read(min(left, CHUNK_SIZE))
        left -= len(chunk)
        if not chunk or (not left and file_version(file) != version):
            raise FileUnreadable(
                f"{getattr(file, 'name', 'the file')} changed while it was sent",
                hint="send it again when it is no longer being written",
            )
        yield chunk


@contextmanager
def with_progress(body: Body, title: str) -> Iterator[Body]:
    """Wrap a large body so that a progress bar shows how much of it was sent."""
    if len(body) <= PROGRESS_THRESHOLD:
        yield body
        return
    with console.progress(title, len(body), "B", delay=0) as bar:
        yield _ProgressBody(body, bar.advance)


class _ProgressBody:
    def __init__(self, body: Body, advance: Callable[[int], None]) -> None:
        self._body = body
        self._advance = advance
        self._sent = 0

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        self._advance(-self._sent)  # in a retry
        self._sent = 0
        for chunk in self._body:
            yield chunk
            self._sent += len(chunk)
            self._advance(len(chunk))
