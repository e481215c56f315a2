"""The folder of one stored model: its version, its number, and the mark of folders that the store made.

    is_managed(folder)                    # True: made by an upload, and so may be replaced or deleted
    version(folder)                       # changes with any file in it

A folder may also be put into the models directory by hand. It is served like any other, and never removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mlaas4hep.errors import ConfigError
from mlaas4hep.serving.params import PARAMS
from mlaas4hep.serving.plain_files import kind_of, read_plain

Version = tuple[int, int]

MARK = ".tfaas-version"
"""Name of the file that an upload leaves in the model's folder; it holds the model's number."""

_LONGEST_MARK = 20  # bytes
_MOST_ENTRIES = 100_000
DEEPEST = 32
"""Levels of folders in a model."""


def is_managed(folder: Path) -> bool:
    """Return whether the store made this folder."""
    return _is_folder(folder) and _marked_number(folder) is not None


def is_model(folder: Path) -> bool:
    """Return whether this folder holds a model, which may be broken."""
    try:
        os.lstat(folder / PARAMS)
        return folder.is_dir()
    except OSError:
        return is_managed(folder)


def number(folder: Path) -> int:
    """Return 1 for the first model of its name, and one more for each upload since."""
    return _marked_number(folder) or 1


def write_mark(folder: Path, number: int) -> None:
    """Mark a folder as made by the store."""
    (folder / MARK).unlink(missing_ok=True)  # of another server
    (folder / MARK).write_text(str(number), encoding="ascii")


def version(folder: str) -> Version:
    """Return a value that changes with any file of a model, and the time when the folder was made or changed, in ns.

    Raises:
        FileNotFoundError, NotADirectoryError: the folder holds no model.
        ConfigError: it holds more than files and folders, or cannot be read. The message does not say where it is.
    """
    name = os.path.basename(folder)
    try:
        status = os.stat(f"{folder}/")
        try:
            os.lstat(f"{folder}/{PARAMS}")
        except FileNotFoundError:
            if not is_managed(Path(folder)):
                raise
        stamps = tuple(_stamps(folder, name))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ConfigError(f"the folder of model '{name}' cannot be read: {error.strerror}") from error
    return hash((status.st_ino, status.st_mtime_ns, *stamps)), status.st_mtime_ns


def sync(folder: Path) -> None:
    """Force the files of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _stamps(folder: str, shown: str) -> Iterator[tuple[str, int, int, int, int]]:
    waiting, seen = [(folder, 0)], 0
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
                        hint="put a regular file in its place",
                    )
        if depth > DEEPEST or seen > _MOST_ENTRIES:
            raise ConfigError(
                f"the folder of model '{shown}' has more than {_MOST_ENTRIES:,} entries, or {DEEPEST} levels",
                hint="move what is not part of the model out of it",
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
