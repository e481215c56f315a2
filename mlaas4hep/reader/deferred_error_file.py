"""Files that defer write errors, for HDF5, which crashes if a write fails while it closes a file.

    with DeferredErrorFile(path) as raw:
        with h5py.File(raw, "w") as file:
            file["x"] = x
            raw.check()

If a write fails, the error is stored and the write appears to succeed; `check` raises the error. From then on, all
data are kept in memory, from which they can be read: HDF5 reads its metadata again when it closes a file, and crashes
if they are missing.
"""

from __future__ import annotations

import io
import os
from typing import Any

PAGE = 65_536
"""Size of a page in bytes; memory is allocated page by page."""


class DeferredErrorFile(io.FileIO):
    """A new binary file that raises write errors only in `check` and at the end of a `with` block."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path), "w+")
        self._error: OSError | None = None
        self._pages: dict[int, bytearray] = {}
        self._size = 0  # of the file, including data in memory; set when a write fails

    def check(self) -> None:
        """Raise the first write error, an OSError, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        """Write all of the content; return its size even if the write fails."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        if self._error is None:
            try:
                while rest:
                    rest = rest[super().write(rest) :]
            except OSError as error:
                self._store(error)
        if rest:
            self._write_to_memory(rest)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size of the file; return the new size even if that fails."""
        new_size = self.tell() if size is None else size
        if self._error is None:
            try:
                return super().truncate(new_size)
            except OSError as error:
                self._store(error)
        self._size = new_size
        return new_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; the end of the file includes data in memory."""
        if whence == os.SEEK_END and self._error is not None:
            offset, whence = self._size + offset, os.SEEK_SET
        return super().seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, from the file or from memory."""
        if self._error is None:
            return super().readinto(buffer) or 0
        view, start = memoryview(buffer).cast("B"), self.tell()
        count = max(min(len(view), self._size - start), 0)
        for page, part, done in _parts(start, count):
            view[done : done + part.stop - part.start] = self._page(page)[part]
        super().seek(start + count)
        return count

    def _store(self, error: OSError) -> None:
        self._error = error
        self._size = os.fstat(self.fileno()).st_size

    def _write_to_memory(self, content: memoryview) -> None:
        start = self.tell()
        for page, part, done in _parts(start, len(content)):
            stored = self._pages[page] = self._page(page)
            stored[part] = content[done : done + part.stop - part.start]
        self._size = max(self._size, start + len(content))
        super().seek(start + len(content))

    def _page(self, page: int) -> bytearray:
        """Return the content of a page, with zeros where nothing was written."""
        if page in self._pages:
            return self._pages[page]
        content = bytearray(PAGE)
        super().seek(page * PAGE)
        super().readinto(content)
        return content

    def __exit__(self, *exception: object) -> None:
        self.close()
        if not isinstance(exception[1], OSError):
            self.check()


def _parts(start: int, size: int) -> list[tuple[int, slice, int]]:
    """Return the pages that a range of bytes covers, the slice within each page, and its offset in the range."""
    pages = range(start // PAGE, -(-(start + size) // PAGE))
    parts = []
    for page in pages:
        first, last = max(start, page * PAGE), min(start + size, (page + 1) * PAGE)
        parts.append((page, slice(first - page * PAGE, last - page * PAGE), first - start))
    return parts
