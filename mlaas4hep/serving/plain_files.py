"""Regular files in folders that other people can change.

    with open_plain(folder / "labels.txt") as file: ...
    read_plain(folder / "params.json", largest=64_000)          # bytes; None where there is no such file

Opening a FIFO would wait for a writer, a link may point anywhere, and opening a device may act on it. So the type is
checked before the file is opened, and once more on what was opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlaas4hep.errors import ConfigError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(mode: int) -> str:
    """Return what a mode stands for, as "a FIFO"; "" for a regular file."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
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


def read_plain(path: Path, largest: int) -> bytes | None:
    """Return the content of a regular file, or None if there is no such file.

    Args:
        largest: size in bytes beyond which the file is refused.

    Raises:
        ConfigError: it is not a regular file, is too large, or cannot be read.
    """
    try:
        with open_plain(path) as file:
            content = file.read(largest + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"the file '{path.name}' cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise ConfigError(f"the file '{path.name}' is larger than {largest:,} bytes")
    return content


def _check_kind(path: Path, mode: int) -> None:
    if kind := kind_of(mode):
        raise ConfigError(f"'{path.name}' is {kind}", hint="put a regular file in its place")
