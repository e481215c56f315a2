"""Safe reading of regular files in folders that other users can change.

    with open_plain(folder / "labels.txt") as file: ...
    read_plain(folder / "params.json", max_bytes=64_000)          # bytes, or None if the file does not exist

Opening a FIFO would block until a process writes to it, a link may point to any file, and opening a device may have
side effects. The type is therefore checked before opening, and again on the open file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlaas4hep.errors import ConfigError
from mlaas4hep.input_files import KINDS


def kind_of(mode: int) -> str:
    """Return the file type of a mode, as in "a folder"; "" for a regular file."""
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "not a regular file")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        FileNotFoundError, NotADirectoryError: the file does not exist.
        ConfigError: it is not a regular file, or cannot be read. The message names the file without its folder.
    """
    try:
        _check_kind(path, os.lstat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(f"the file '{path.name}' cannot be read: {reason}") from error
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path, max_bytes: int) -> bytes | None:
    """Return the content of a regular file, or None if it does not exist.

    Raises:
        ConfigError: it is not a regular file, is too large, or cannot be read.
    """
    try:
        with open_plain(path) as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"the file '{path.name}' cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ConfigError(f"the file '{path.name}' is larger than {max_bytes:,} bytes")
    return content


def _check_kind(path: Path, mode: int) -> None:
    if kind := kind_of(mode):
        raise ConfigError(f"'{path.name}' is {kind}", hint="put a regular file in its place")
