"""A cache of decoded events on disk, so that only the first epoch reads and decodes the files.

    cache = BlockCache.open(key_of(everything that the events depend on), limit=20_000_000_000)
    cache.put(file, start, stop, Cached(batch, {}, {}))
    cache.get(file, start, stop).batch            # its arrays are memory-mapped, not read

The cache lies in a subfolder of $MLAAS4HEP_CACHE, or of the system's folder for temporary files if that is not set;
see `cache_folder`. Later runs over the same events find them there. If there is too little room, the least recently
used entries of other keys are deleted. The cache may be deleted at any time: the events are then read from the files
again. So are the events of a damaged block: its checksum is verified when a process uses it for the first time.
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
from mlaas4hep.stream.cache_folder import CacheFolder, size_of

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

    def __init__(self, folder: CacheFolder, key: str, limit: int) -> None:
        """Use the entry `key` of a cache folder, and up to `limit` bytes of all its entries.

        Raises:
            OSError: the entry cannot be created.
        """
        self._folder = folder
        self._key = key
        self._entry = folder.entry(key)
        self._limit = limit
        self._lock = threading.Lock()
        self._used = sum(map(size_of, folder.entries()))
        self._full = False
        self._whole: set[Path] = set()
        self._damaged = False

    @classmethod
    def open(cls, key: str, limit: int) -> BlockCache | None:
        """Return the cache of a key; None if there is no place for one, with a notice."""
        parent = Path(os.environ.get("MLAAS4HEP_CACHE") or tempfile.gettempdir())
        try:
            return cls(CacheFolder.open(parent), key, limit)
        except OSError as error:
            console.notice(
                f"no cache, so every epoch reads the files: {error}; set MLAAS4HEP_CACHE to a folder that you may write"
            )
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
                console.notice(f"events in the cache are damaged, so they are read from the files again: {path}")
            self._damaged = True
            return None

    def put(self, file: int, start: int, stop: int, block: Cached) -> None:
        """Write a block, if there is room."""
        pieces = _pack(block)
        temporary = None
        try:
            entry = self._folder.entry(self._key)  # the cache may have been deleted meanwhile
            if not self._make_room(sum(map(len, pieces))):
                return
            path = self._path(file, start, stop)
            with tempfile.NamedTemporaryFile(prefix=".block-", dir=entry, delete=False) as opened:
                temporary = Path(opened.name)
                opened.writelines(pieces)
            self._whole.discard(path)
            temporary.rename(path)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    temporary.unlink()
            self._give_up(str(error))

    def _path(self, file: int, start: int, stop: int) -> Path:
        return self._entry / f"{file}-{start}-{stop}"

    def _make_room(self, size: int) -> bool:
        """Reserve `size` bytes, deleting entries of other keys if need be; return whether there is room."""
        with self._lock:
            if self._full:
                return False
            if shutil.disk_usage(self._folder.path).free < size + RESERVE:
                self._give_up(f"there are less than {RESERVE / 1e9:.0f} GB free on the disk of {self._folder.path}")
                return False
            if self._used + size > self._limit:
                for other in self._folder.entries():
                    if other != self._entry and self._used + size > self._limit:
                        self._used -= size_of(other)
                        self._folder.remove(other)
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
