"""The folder of a stored model: the version of its content, its version number, and the marker file of uploads.

    is_managed(folder)                    # True: created by an upload, so it may be replaced or deleted
    version(folder)                       # changes with every file in it

Folders that a person put into the models directory are served too, but never replaced or deleted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mlaas4hep.errors import ConfigError
from mlaas4hep.protocol.limits import DEFAULTS, Limits
from mlaas4hep.protocol.params import PARAMS
from mlaas4hep.protocol.plain_files import kind_of, read_plain

Version = tuple[int, int]

MARK = ".tfaas-version"
"""Name of the marker file in folders created by uploads; it contains the model's number."""

_LONGEST_MARK = 20  # bytes


def is_managed(folder: Path) -> bool:
    """Return whether an upload created this folder."""
    return _is_folder(folder) and _marked_number(folder) is not None


def is_model(folder: Path) -> bool:
    """Return whether this folder contains a model, possibly a broken one."""
    try:
        os.lstat(folder / PARAMS)
        return folder.is_dir()
    except OSError:
        return is_managed(folder)


def number(folder: Path) -> int:
    """Return the version number: 1 for the first model of its name, incremented by each upload."""
    return _marked_number(folder) or 1


def write_mark(folder: Path, number: int) -> None:
    """Mark a folder as created by an upload."""
    (folder / MARK).unlink(missing_ok=True)  # of another server
    (folder / MARK).write_text(str(number), encoding="ascii")


def version(folder: str, limits: Limits = DEFAULTS) -> Version:
    """Return a hash that changes with every file of a model, and the folder's modification time in ns.

    Raises:
        FileNotFoundError, NotADirectoryError: the folder has no model.
        ConfigError: the folder cannot be read, or has entries other than files and folders. The message does not
            contain its path.
    """
    name = os.path.basename(folder)
    try:
        status = os.stat(f"{folder}/")
        try:
            os.lstat(f"{folder}/{PARAMS}")
        except FileNotFoundError:
            if not is_managed(Path(folder)):
                raise
        stamps = tuple(_stamps(folder, name, limits))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ConfigError(f"the folder of model '{name}' cannot be read: {error.strerror}") from error
    return hash((status.st_ino, status.st_mtime_ns, *stamps)), status.st_mtime_ns


def sync(folder: Path) -> None:
    """Flush the files of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _stamps(folder: str, shown: str, limits: Limits) -> Iterator[tuple[str, int, int, int, int]]:
    waiting, seen, most = [(folder, 0)], 0, 10 * limits.archive_members
    while waiting:
        folder, depth = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                status = entry.stat(follow_symlinks=False)
                seen += 1
                yield entry.path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((entry.path, depth + 1))
                elif kind := kind_of(status.st_mode):
                    raise ConfigError(
                        f"in the folder of model '{shown}', '{entry.name}' is {kind}",
                        hint="replace it by a regular file",
                    )
        if depth > limits.archive_depth or seen > most:
            raise ConfigError(
                f"the folder of model '{shown}' has more than {most:,} entries, or {limits.archive_depth} levels",
                hint="remove files that are not part of the model",
            )


def _marked_number(folder: Path) -> int | None:
    try:
        return int(read_plain(folder / MARK, _LONGEST_MARK) or b"")
    except ValueError:  # also ConfigError
        return None


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
