"""The folder of the block cache: create, list, measure and delete its entries.

    folder = CacheFolder.open(Path("/scratch"))       # /scratch/mlaas4hep-blocks-1000
    entry = folder.entry("0f3a...")                   # one folder per key
    folder.entries(), size_of(entry)
    folder.remove(entry)

The user may choose any parent folder, also one with other content. The cache therefore has a subfolder of its own.
That subfolder and each entry contain a marker file with fixed content. A folder that lacks the marker or belongs to
another user (the parent may be /tmp) is never counted, changed or deleted. In an entry, only the marker and files named
like blocks are deleted, one by one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlaas4hep.folder_marker import FolderMarker

MARKER = FolderMarker(".mlaas4hep-cache", "This folder is a cache of MLaaS4HEP. It may be deleted at any time.\n")

_BLOCK = re.compile(r"\d+-\d+-\d+|\.block-\w+")  # a complete block, or one that is being written
_EVICTED = ".evicted-"


class CacheFolder:
    """A folder of cache entries; see the module's docstring."""

    def __init__(self, path: Path) -> None:
        """Use the folder `path`; see `open`."""
        self.path = path

    @classmethod
    def open(cls, parent: Path) -> CacheFolder:
        """Open the cache folder of this user in `parent`, creating both if needed; raise OSError if that fails."""
        folder = cls(parent / f"mlaas4hep-blocks-{os.getuid()}")
        folder._create()
        return folder

    def _create(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _ensure(self.path)

    def entry(self, key: str) -> Path:
        """Return the folder of a key, with a new time of last use. Create it if needed; raise OSError if that fails."""
        self._create()
        entry = self.path / key
        _ensure(entry)
        os.utime(entry)
        return entry

    def entries(self) -> Sequence[Path]:
        """Return the entries, the least recently used one first."""
        with suppress(OSError):
            return sorted(filter(_is_entry, self.path.iterdir()), key=_last_used)
        return []

    def remove(self, entry: Path) -> None:
        """Delete an entry. If it contains files that are not blocks, these and the entry itself stay."""
        with suppress(OSError):
            if not all(file.name == MARKER.name or _is_block(file) for file in _files(entry)):
                _delete_blocks(entry)
                return
            # Rename first: a process that writes to the entry then notices, and creates it again.
            evicted = entry.with_name(f"{_EVICTED}{os.getpid()}-{entry.name.removeprefix(_EVICTED)}")
            entry.rename(evicted)
            _delete_blocks(evicted)
            (evicted / MARKER.name).unlink()
            evicted.rmdir()


def _ensure(path: Path) -> None:
    """Create a folder of the cache unless it exists; raise OSError if that fails, or its name is taken."""
    MARKER.ensure(path)
    if path.lstat().st_uid != os.getuid():
        raise FileExistsError(f"{path} belongs to another user")


def _is_entry(path: Path) -> bool:
    with suppress(OSError):
        return MARKER.is_on(path) and path.lstat().st_uid == os.getuid()
    return False


def size_of(entry: Path) -> int:
    """Return the size of the blocks of an entry in bytes. Files that are deleted meanwhile do not count."""
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
