"""Blocks of events as they were made, on disk, so that only the first epoch reads and decodes the files.

    cache = BlockCache.open(key_of(everything that the events depend on), limit=20_000_000_000)
    cache.put(file, start, stop, Cached(batch, {}, {}))
    cache.get(file, start, stop).batch            # its arrays are mapped into memory, not read

Blocks lie in $MLAAS4HEP_CACHE (a folder of the system's for temporary files, unless it is set), in a folder for each
key, and later runs over the same events find them there. The folders of other keys go when there is too little room,
those first that were not used for longest. Losing the cache at any time loses nothing but time, and so does damage: the
first time that a process takes a block, it looks whether its checksum is right.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import mlaas4hep
from mlaas4hep import console
from mlaas4hep.reader.objects import Objects
from mlaas4hep.stream.batch import Batch

MAGIC = b"MLBLOCK2"
ALIGNMENT = 64
HEAD = 24
"""Bytes before the description of a block: MAGIC, a checksum of all that follows it, the length of the description."""

RESERVE = 2_000_000_000
"""Bytes of the disk that are left to others."""


@dataclass(frozen=True)
class Cached:
    """A block, and what was noted when it was made.

    Attributes:
        batch: all events of the block.
        truncated: by jagged branch, how many values were cut off.
        skipped: stretches of entries that could not be read, and why.
    """

    batch: Batch
    truncated: Mapping[str, int]
    skipped: Mapping[tuple[int, int], str]


class BlockCache:
    """The blocks of one sample as it is read by one set of parameters; threads may share it."""

    def __init__(self, root: Path, key: str, limit: int) -> None:
        """Use the folder `key` of `root`, which exists, and up to `limit` bytes of it and its neighbours."""
        self.folder = root / key
        self.folder.mkdir(exist_ok=True)
        os.utime(self.folder)
        self._root = root
        self._limit = limit
        self._lock = threading.Lock()
        self._used = sum(map(_size, root.iterdir()))
        self._full = False
        self._whole: set[Path] = set()
        self._damaged = False

    @classmethod
    def open(cls, key: str, limit: int) -> BlockCache | None:
        """Return the cache of a key; None where there is no place for one."""
        named = os.environ.get("MLAAS4HEP_CACHE")
        root = Path(named or Path(tempfile.gettempdir(), f"mlaas4hep-cache-{os.getuid()}"))
        try:
            root.mkdir(mode=0o700, parents=named is not None, exist_ok=True)
            if root.stat().st_uid != os.getuid() or (named is None and root.is_symlink()):
                raise PermissionError(f"{root} belongs to somebody else")
            return cls(root, key, limit)
        except OSError as error:
            console.notice(f"no cache, so every epoch reads the files: {error}; set MLAAS4HEP_CACHE to a folder")
            return None

    def get(self, file: int, start: int, stop: int) -> Cached | None:
        """Return a block, or None if it is not there, or damaged."""
        path = self._path(file, start, stop)
        try:
            with path.open("rb") as opened:
                populate = getattr(mmap, "MAP_POPULATE", 0)
                memory = memoryview(mmap.mmap(opened.fileno(), 0, mmap.MAP_SHARED | populate, mmap.PROT_READ))
            if path not in self._whole:
                _check(memory)
                self._whole.add(path)
            return _unpack(memory)
        except OSError:
            return None
        except ValueError:
            if not self._damaged:
                console.notice(f"events in the cache are damaged, and read anew from the files: {path}")
            self._damaged = True
            return None

    def put(self, file: int, start: int, stop: int, block: Cached) -> None:
        """Write a block, if there is room."""
        pieces = _pack(block)
        temporary = self.folder / f".{os.getpid()}-{threading.get_ident()}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have cleared up
            if not self._make_room(sum(map(len, pieces))):
                return
            path = self._path(file, start, stop)
            with temporary.open("wb") as opened:
                opened.writelines(pieces)
            self._whole.discard(path)
            temporary.rename(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._give_up(str(error))

    def _path(self, file: int, start: int, stop: int) -> Path:
        return self.folder / f"{file}-{start}-{stop}"

    def _make_room(self, size: int) -> bool:
        """Count `size` bytes more, without others that are older if need be; return whether there is room for them."""
        with self._lock:
            if self._full:
                return False
            if shutil.disk_usage(self._root).free < size + RESERVE:
                self._give_up(f"there are less than {RESERVE / 1e9:.0f} GB free on the disk of {self._root}")
                return False
            others = sorted((folder for folder in self._root.iterdir() if folder != self.folder), key=_last_used)
            while self._used + size > self._limit and others:
                self._used -= _size(others[0])
                shutil.rmtree(others.pop(0), ignore_errors=True)
            if self._used + size > self._limit:
                self._give_up(f"'cache_gb' in the params allows {self._limit / 1e9:g} GB")
                return False
            self._used += size
            return True

    def _give_up(self, reason: str) -> None:
        if not self._full:
            console.notice(f"the cache holds a part of the events, and every epoch reads the others: {reason}")
        self._full = True


def key_of(content: Any) -> str:
    """Return a name for all that the events of a sample depend on, given as JSON would have it."""
    text = json.dumps([mlaas4hep.__version__, MAGIC.decode(), content], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _pack(block: Cached) -> list[bytes | memoryview]:
    """Return a block's file in pieces: head, description, arrays, each from a multiple of ALIGNMENT on."""
    names, arrays, places, position = [], [], [], 0
    for name, array in _arrays_of(block.batch):
        names.append(name)
        arrays.append(np.ascontiguousarray(array))
        places.append([arrays[-1].dtype.str, list(array.shape), position])
        position += _padded(arrays[-1].nbytes)
    content = {
        "arrays": list(zip(names, places, strict=True)),
        "lengths": {name: part.length for name, part in block.batch.inputs.items() if isinstance(part, Objects)},
        "truncated": dict(block.truncated),
        "skipped": [[start, stop, reason] for (start, stop), reason in block.skipped.items()],
    }
    text = json.dumps(content).encode()
    text = text.ljust(_padded(HEAD + len(text)) - HEAD)
    pieces: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    for array in arrays:
        pieces += [array.data.cast("B") if array.size else b"", bytes(_padded(array.nbytes) - array.nbytes)]
    checksum = xxhash.xxh3_64()
    for piece in pieces:
        checksum.update(piece)
    return [MAGIC, checksum.digest(), *pieces]


def _check(memory: memoryview) -> None:
    """Raise ValueError if the memory is not as a block was written."""
    if bytes(memory[:8]) != MAGIC or xxhash.xxh3_64_digest(memory[16:]) != bytes(memory[8:16]):
        raise ValueError("not a block, or damaged")


def _unpack(memory: memoryview) -> Cached:
    """Return what `_pack` took apart."""
    begin = HEAD + int.from_bytes(memory[16:HEAD], "little")
    content = json.loads(bytes(memory[HEAD:begin]))
    made: dict[str, Any] = {field.name: {} for field in fields(Batch)}
    for (outer, inner), (dtype, shape, position) in content["arrays"]:
        array = np.frombuffer(memory, dtype, int(np.prod(shape)), begin + position).reshape(shape)
        if inner:
            made[outer][inner] = array
        else:
            made[outer] = array
    for name, length in content["lengths"].items():
        made["inputs"][name] = Objects(made.pop(f"{name}: content"), made.pop(f"{name}: offsets"), length)
    skipped = {(start, stop): reason for start, stop, reason in content["skipped"]}
    return Cached(Batch(**made), content["truncated"], skipped)


def _arrays_of(batch: Batch) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    for field in fields(batch):
        values = getattr(batch, field.name)
        for name, part in values.items() if isinstance(values, Mapping) else [("", values)]:
            if isinstance(part, Objects):
                yield (f"{name}: content", ""), part.content
                yield (f"{name}: offsets", ""), part.offsets
            else:
                yield (field.name, name), part


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process was quicker
        return 0.0


def _size(folder: Path) -> int:
    """Return the bytes that the files of a folder take; one that vanishes has none."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0
