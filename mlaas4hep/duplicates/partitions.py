"""Partitions of records by the hash of their identity, in a temporary file if they do not fit into memory.

    with Partitions(expected=10**9, width=4, memory=500_000_000) as partitions:
        partitions.add(records)
        for partition in partitions:
            ...                             # all records of an identity are in the same partition

Records are collected in a buffer. When it is full, it is sorted by partition and appended to the file. The file has no
name, so that it is deleted even if the process is killed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from mlaas4hep.closeable import Closeable
from mlaas4hep.duplicates.records import files_of, hashes, sort_rows
from mlaas4hep.write_errors import explained_writes

_WORKING_COPIES = 8
"""Memory to sort and compare the records of a partition, relative to the records themselves. Measured: 4.3."""

_TOLERANCE = 1.25
"""Size of a partition, relative to the expected size, above which surplus records are dropped."""

_MAX_PARTITIONS = 2**16 - 1

_FAST_RECORDS = 200_000
"""Number of records per partition for which sorting is fastest."""

_PIECE_BYTES = 64_000
"""Minimum number of bytes of a partition that are contiguous in the file, if the memory suffices for that."""


class Partitions(Closeable):
    """Records of events, added in any order, and then read partition by partition.

    Args:
        expected: maximum number of records.
        width: number of columns of a record.
        memory: maximum number of bytes for adding records, and for the use of one partition.
    """

    def __init__(self, expected: int, width: int, memory: int) -> None:
        self._width = width
        self._limit = _partition_size(expected, 8 * width, memory)
        self._count = min(max(-(-expected // self._limit), 1), _MAX_PARTITIONS)
        self._buffer: list[np.ndarray] = []
        self._buffered = 0
        self._file: IO[bytes] | None = None
        self._edges: list[np.ndarray] = []  # for each part of the file, where its partitions begin and end

    def add(self, records: np.ndarray) -> None:
        """Add records, uint64 (events, width).

        Raises:
            WriteFailed: the temporary file cannot be written.
        """
        if self._buffered and self._buffered + len(records) > self._limit:
            self._spill()
        self._buffer.append(records)
        self._buffered += len(records)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the records of each partition, in any order.

        Of an identity that occurs very often in a file, only the first two records may be left; see `first_two`.
        """
        if self._file is None:
            yield self._take_buffer()
            return
        self._spill()
        for partition in range(self._count):
            yield self._load(partition)

    def __len__(self) -> int:
        """Return the number of partitions that are yielded."""
        return 1 if self._file is None else self._count

    def close(self) -> None:
        """Delete the temporary file."""
        if self._file is not None:
            self._file.close()

    def _take_buffer(self) -> np.ndarray:
        records = np.concatenate([np.empty((0, self._width), np.uint64), *self._buffer])
        self._buffer, self._buffered = [], 0
        return records

    def _spill(self) -> None:
        """Append the buffer to the file, sorted by partition."""
        records = self._take_buffer()
        partition = (hashes(records) >> np.uint64(32)) * np.uint64(self._count) >> np.uint64(32)
        partition = partition.astype(np.uint16)  # which NumPy sorts in linear time
        order = np.argsort(partition, kind="stable")
        sizes = np.bincount(partition, minlength=self._count)
        with explained_writes(f"temporary files in {tempfile.gettempdir()}"):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="mlaas4hep-")  # noqa: SIM115  closed by `close`
            self._file.seek(0, 2)
            self._file.write(np.take(records, order, axis=0).data)
            self._file.flush()
        start = self._edges[-1][-1] if self._edges else 0
        self._edges.append(start + np.concatenate([[0], np.cumsum(sizes)]))

    def _load(self, partition: int) -> np.ndarray:
        """Read a partition; see `first_two` for what is left if few events occur very often."""
        parts: list[np.ndarray] = []
        size = 0
        for edges in self._edges:
            parts.append(self._read(*edges[partition : partition + 2].tolist()))
            size += len(parts[-1])
            if size > _TOLERANCE * self._limit:
                parts = [first_two(np.concatenate(parts))]
                size = len(parts[0])
        return np.concatenate(parts)

    def _read(self, start: int, stop: int) -> np.ndarray:
        assert self._file is not None
        self._file.seek(start * self._width * 8)
        records = np.frombuffer(self._file.read((stop - start) * self._width * 8), np.uint64)
        return records.reshape(stop - start, self._width)


def _partition_size(expected: int, record_bytes: int, memory: int) -> int:
    """Return the number of records to sort at a time: all of them if they fit into memory, otherwise fewer.

    Larger arrays take more time per record, because of page faults and cache misses.
    """
    limit = max(memory // (_WORKING_COPIES * record_bytes), 1)
    if expected <= limit:
        return limit
    return min(limit, max(_FAST_RECORDS, math.isqrt(expected * _PIECE_BYTES // record_bytes)))


def first_two(records: np.ndarray) -> np.ndarray:
    """Return the first two records of each identity in each file, sorted by identity, file and entry."""
    order, _ = sort_rows(records)
    records = records[order]
    keys = np.column_stack([records[:, :-1], files_of(records[:, -1])])
    kept = np.ones(len(records), bool)
    kept[2:] = (keys[2:] != keys[:-2]).any(axis=1)
    return records[kept]
