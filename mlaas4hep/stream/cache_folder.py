"""The folder of the block cache: which entries are ours, how many bytes they take, and how they are deleted.

    folder = CacheFolder.open(Path("/scratch"))       # /scratch/mlaas4hep-blocks-1000
    entry = folder.entry("0f3a...")                   # one folder per key
    folder.entries(), size_of(entry)
    folder.remove(entry)

The user may name any folder, also one that holds other things. The cache therefore lives in a subfolder of its own.
That subfolder and each entry carry a marker file with fixed content. A folder without the marker is never counted,
changed or deleted. In an entry, only the marker and files with the name of a block are deleted, one by one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlaas4hep.marked import Marker

MARKER = Marker(".mlaas4hep-cache", "This folder is a cache of MLaaS4HEP. It may be deleted at any time.\n")

_BLOCK = re.compile(r"\d+-\d+-\d+|\.block-\w+")  # a block; a block that is being written
_EVICTED = ".evicted-"


class CacheFolder:
    """A folder of cache entries; see the module's docstring."""

    def __init__(self, path: Path) -> None:
        """Use `path`; `open` also creates it."""
        self.path = path

    @classmethod
    def open(cls, parent: Path) -> CacheFolder:
        """Open the cache folder of this user below `parent`; create both if they do not exist.

        Raises:
            OSError: a folder cannot be created, or something else has the name of the cache folder.
        """
        folder = cls(parent / f"mlaas4hep-blocks-{os.getuid()}")
        folder._create()
        return folder

    def _create(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        MARKER.ensure(self.path)

    def entry(self, key: str) -> Path:
        """Return the folder of a key; create it if it does not exist, and mark it as used now.

        Raises:
            OSError: it cannot be created, or something else has its name.
        """
        self._create()
        entry = self.path / key
        MARKER.ensure(entry)
        os.utime(entry)
        return entry

    def entries(self) -> Sequence[Path]:
        """Return the entries, the least recently used one first."""
        with suppress(OSError):
            found = [path for path in self.path.iterdir() if MARKER.is_on(path)]
            return sorted(found, key=_last_used)
        return []

    def remove(self, entry: Path) -> None:
        """Delete an entry; files in it that are not blocks stay, and the entry with them."""
        with suppress(OSError):
            if not all(file.name == MARKER.name or _is_block(file) for file in _files(entry)):
                _delete_blocks(entry)
                return
            # The entry disappears in one step, so that a process that writes to it notices and creates it again.
            evicted = entry.with_name(f"{_EVICTED}{os.getpid()}-{entry.name.removeprefix(_EVICTED)}")
            entry.rename(evicted)
            _delete_blocks(evicted)
            (evicted / MARKER.name).unlink()
            evicted.rmdir()


def size_of(entry: Path) -> int:
    """Return the size of the blocks of an entry in bytes; files that vanish meanwhile do not count."""
    total = 0
    for block in _blocks(entry):
        with suppress(OSError):
            total += block.stat(follow_symlinks=False).st_size
    return total


def _files(entry: Path) -> Sequence[os.DirEntry[str]]:
    with os.scandir(entry) as files:
        return list(files)


def _blocks(entry: Path) -> Sequence[os.DirEntry[str]]:
    with suppress(OSError):
        return [file for file in _files(entry) if _is_block(file)]
    return []


def _is_block(file: os.DirEntry[str]) -> bool:
    return _BLOCK.fullmatch(file.name) is not None and file.is_file(follow_symlinks=False)


def _delete_blocks(entry: Path) -> None:
    for block in _blocks(entry):
        with suppress(OSError):
            os.unlink(block.path)


def _last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process has deleted it
        return 0.0
