"""Write errors that the user can fix: a full disk, an exceeded quota, a file size limit.

    with explained_writes(Path("model.onnx")):
        onnx.save(graph, "model.onnx")      # WriteFailed: cannot write model.onnx: No space left on device; ...

Python raises an OSError with an error number. TensorFlow, PyTorch and XGBoost raise their own exceptions, whose
messages contain the message of the system.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas4hep.errors import FileUnreadable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILURES = (*_FULL, errno.EFBIG)
FREE_SPACE = "free some space on its disk"


class WriteFailed(FileUnreadable):
    """A file or folder could not be written."""

    def __init__(self, path: str | os.PathLike[str], number: int | None, reason: str = "") -> None:
        """Create an error for a file or folder, from the system's error number, or else from a reason."""
        self.write_errno = number if number in _FAILURES else 0
        text = os.strerror(number) if number else reason
        super().__init__(f"cannot write {os.fspath(path)}: {text}", hint=FREE_SPACE if number in _FULL else "")

    @property
    def is_full(self) -> bool:
        """Whether the disk was full or a quota exceeded."""
        return self.write_errno in _FULL


def write_errno(error: BaseException | None) -> int:
    """Return the system's error number if an exception, or its cause, is a failed write; 0 otherwise."""
    while error is not None:
        if isinstance(error, WriteFailed):
            return error.write_errno
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno if error.errno in _FAILURES else 0
        for number in _FAILURES:
            if os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return 0


def failed_write(error: BaseException) -> WriteFailed | None:
    """Return an error that names the file that could not be written, if it is known; None if no write failed."""
    number, path = write_errno(error), getattr(error, "filename", None)
    if number:
        return WriteFailed(path or f"a file, perhaps a temporary one in {_temporary_folder()}", number)
    if isinstance(error, FileNotFoundError) and path is None and not _temporary_folder():
        return WriteFailed("temporary files", None, f"{error.strerror}; set TMPDIR to a folder with free space")
    return None


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return ""


@contextmanager
def explained_writes(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise WriteFailed for `path` if a write in the block fails; other exceptions are not changed.

    The message names `path` even if another file could not be written, since users do not know our temporary files.
    """
    try:
        yield
    except Exception as error:
        number = write_errno(error)
        if not number:
            raise
        raise WriteFailed(path, number) from error
