"""A cache of decoded events on disk, so that only the first epoch reads and decodes the files.

    cache = BlockCache.open(versioned_hash([files, params]), limit=20_000_000_000)
    cache.put(file, start, stop, CachedBlock(batch, {}, {}))
    cache.get(file, start, stop).batch            # its arrays are memory-mapped, not read

The cache is in a subfolder of $MLAAS4HEP_CACHE, or of the system's folder for temporary files if that is not set;
see `cache_folder`. Later runs over the same events find them there. If there is too little room, the least recently
used entries of other keys are evicted. The cache may be deleted at any time: the events are then read from the files
again. The same happens for a damaged block: its checksum is verified when a process first uses it, and again after its
file has changed.

Blocks are memory-mapped, because reading them into memory would make later epochs several times slower (see
benchmarks/RESULTS.md). Truncating a mapped file while a batch is copied from it would kill the process with SIGBUS.
Therefore blocks are read-only files in a folder that only the user can enter, and they are only replaced as a whole or
deleted, which does not affect processes that have mapped them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mlaas4hep import console
from mlaas4hep.reader.objects import Objects
from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.cache_folder import CacheFolder, size_of
from mlaas4hep.stream.memory_map import map_file
from mlaas4hep.version import __version__

MAGIC = b"MLBLOCK4"
ALIGNMENT = 64
HEADER = 24
"""Bytes before the description of a block: MAGIC, checksum of all that follows it, length of the description."""

_MIN_AGE = 100_000_000  # ns
_Version = tuple[int, int, int]

RESERVE = 2_000_000_000
"""Bytes of the disk that the cache leaves free."""


@dataclass(frozen=True)
class CachedBlock:
    """A block of events, and the warnings of the pass that decoded it.

    Attributes:
        batch: all events of the block.
        truncated: number of dropped values, by jagged branch, and of dropped objects, by input.
        skipped: ranges of entries that could not be read, and the reason.
    """

    batch: Batch
    truncated: Mapping[str, int]
    skipped: Mapping[tuple[int, int], str]


class BlockCache:
    """The decoded blocks of one sample and one set of parameters. It is thread-safe."""

    def __init__(self, folder: CacheFolder, key: str, limit: int) -> None:
        """Use the entry `key` of a cache folder, whose entries may take up to `limit` bytes together.

        Raise OSError if the entry cannot be created.
        """
        self._folder = folder
        self._key = key
        self._entry = folder.entry(key)
        self._limit = limit
        self._lock = threading.Lock()
        self._used = sum(map(size_of, folder.entries()))
        self._full = False
        self._verified: dict[Path, _Version | None] = {}  # blocks with a verified checksum, by path
        self._damaged = False

    @classmethod
    def open(cls, key: str, limit: int) -> BlockCache | None:
        """Open the cache of a key. Print a notice and return None if the folder cannot be created."""
        parent = Path(os.environ.get("MLAAS4HEP_CACHE") or tempfile.gettempdir())
        try:
            return cls(CacheFolder.open(parent), key, limit)
        except OSError as error:
            console.notice(
                f"events are not cached, every epoch reads the files: {error}; set MLAAS4HEP_CACHE to a writable folder"
            )
            return None

    def get(self, file: int, start: int, stop: int) -> CachedBlock | None:
        """Return a block; None if it is not cached, or damaged."""
        path = self._path(file, start, stop)
        try:
            with path.open("rb") as opened:
                version = _version(os.fstat(opened.fileno()))
                memory = map_file(opened)
            if version is None or self._verified.get(path) != version:
                _check(memory)
                self._verified[path] = version
            return _unpack(memory)
        except OSError:
            return None
        except ValueError:
            if not self._damaged:
                console.notice(f"a cached block is damaged, and its events are read from the files again: {path}")
            self._damaged = True
            return None

    def put(self, file: int, start: int, stop: int, block: CachedBlock) -> None:
        """Write a block if there is room."""
        buffers = _pack(block)
        temporary = None
        try:
            entry = self._folder.entry(self._key)  # created again if it was deleted meanwhile
            if not self._make_room(sum(map(len, buffers))):
                return
            path = self._path(file, start, stop)
            with tempfile.NamedTemporaryFile(prefix=".block-", dir=entry, delete=False) as opened:
                temporary = Path(opened.name)
                opened.writelines(buffers)
                os.fchmod(opened.fileno(), 0o400)
            self._verified.pop(path, None)
            temporary.rename(path)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    temporary.unlink()
            self._give_up(str(error))

    def _path(self, file: int, start: int, stop: int) -> Path:
        return self._entry / f"{file}-{start}-{stop}"

    def _make_room(self, size: int) -> bool:
        """Reserve `size` bytes, evicting entries of other keys if necessary; return whether there is room."""
        with self._lock:
            if self._full:
                return False
            if shutil.disk_usage(self._folder.path).free < size + RESERVE:
                self._give_up(f"less than {RESERVE / 1e9:.0f} GB are free on the disk of {self._folder.path}")
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
            console.notice(f"only a part of the events is cached, every epoch reads the others: {reason}")
        self._full = True


def versioned_hash(content: Any) -> str:
    """Return a hash of JSON values, of the version of this package, and of the format of blocks."""
    text = json.dumps([__version__, MAGIC.decode(), content], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _pack(block: CachedBlock) -> list[bytes | memoryview]:
    """Return the content of a block's file: header, description, arrays, each at a multiple of ALIGNMENT."""
    names, arrays, layout, position = [], [], [], 0
    for name, array in _arrays_of(block.batch):
        names.append(name)
        arrays.append(np.ascontiguousarray(array))
        layout.append([arrays[-1].dtype.str, list(array.shape), position])
        position += _padded(arrays[-1].nbytes)
    content = {
        "arrays": list(zip(names, layout, strict=True)),
        "objects": {name: part.shape for name, part in block.batch.inputs.items() if isinstance(part, Objects)},
        "truncated": dict(block.truncated),
        "skipped": [[start, stop, reason] for (start, stop), reason in block.skipped.items()],
    }
    text = json.dumps(content).encode()
    text = text.ljust(_padded(HEADER + len(text)) - HEADER)
    buffers: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    for array in arrays:
        buffers += [array.data.cast("B") if array.size else b"", bytes(_padded(array.nbytes) - array.nbytes)]
    checksum = xxhash.xxh3_64()
    for buffer in buffers:
        checksum.update(buffer)
    return [MAGIC, checksum.digest(), *buffers]


def _version(status: os.stat_result) -> _Version | None:
    """Return a value that changes with the file; None if it is so new that a change might keep its time stamp."""
    if time.time_ns() - status.st_mtime_ns < _MIN_AGE:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check(memory: memoryview) -> None:
    """Raise ValueError if the memory is not an intact block."""
    if bytes(memory[:8]) != MAGIC or xxhash.xxh3_64_digest(memory[16:]) != bytes(memory[8:16]):
        raise ValueError("the block is damaged")


def _unpack(memory: memoryview) -> CachedBlock:
    """Return the block that `_pack` wrote. Its arrays are views of the memory."""
    begin = HEADER + int.from_bytes(memory[16:HEADER], "little")
    content = json.loads(bytes(memory[HEADER:begin]))
    members: dict[str, Any] = {"inputs": {}, "ids": {}}
    for (outer, inner), (dtype, shape, position) in content["arrays"]:
        array = np.frombuffer(memory, dtype, int(np.prod(shape)), begin + position).reshape(shape)
        if inner:
            members[outer][inner] = array
        else:
            members[outer] = array
    for name, shape in content["objects"].items():
        array, offsets = members.pop(f"{name}: content"), members.pop(f"{name}: offsets")
        members["inputs"][name] = Objects(array, offsets, tuple(shape), members.pop(f"{name}: cells", None))
    skipped = {(start, stop): reason for start, stop, reason in content["skipped"]}
    return CachedBlock(Batch(**members), content["truncated"], skipped)


def _arrays_of(batch: Batch) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    for field in fields(batch):
        values = getattr(batch, field.name)
        if values is None:
            continue
        for name, part in values.items() if isinstance(values, Mapping) else [("", values)]:
            if isinstance(part, Objects):
                yield (f"{name}: content", ""), part.content
                yield (f"{name}: offsets", ""), part.offsets
                if part.cells is not None:
                    yield (f"{name}: cells", ""), part.cells
            else:
                yield (field.name, name), part


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
