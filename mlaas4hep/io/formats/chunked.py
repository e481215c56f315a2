"""Sources of files that are decoded in chunks: clusters of an RNTuple, row groups of a Parquet file.

    ChunkedSource(ParquetReader("data.parquet"), "data.parquet").read(["MET_pt"], 0, 1000)

A `ChunkReader` decodes whole chunks of one format. `ChunkedSource` implements the rest of the `Source` interface.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Protocol

from mlaas4hep.closeable import Closeable
from mlaas4hep.errors import BranchNotFound, FileUnreadable, Unreachable, error_summary, nearest
from mlaas4hep.io.blocks import ClusterSize
from mlaas4hep.io.columns import (
    Column,
    Columns,
    Values,
    check_lengths,
    check_readable,
    concatenate_events,
    empty_columns,
    nbytes,
    slice_events,
)
from mlaas4hep.io.source import DeclaredFriend
from mlaas4hep.io.storage.byte_ranges import ByteRanges
from mlaas4hep.io.storage.location import list_all
from mlaas4hep.io.storage.replicas import read_with_fallback

CACHE_BYTES = 256_000_000
"""Bytes of decoded chunks that are cached, so that a chunk that is read in several parts is decoded once."""


class ChunkReader(Protocol):
    """Decoder of the chunks of a file.

    Attributes:
        identity: identifier of the content, which does not change when the file is moved or renamed.
        columns: all columns, by name.
        edges: first entry of each chunk, and the number of entries; strictly increasing.
    """

    identity: str
    columns: Mapping[str, Column]
    edges: Sequence[int]

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """Decode some columns of a whole chunk; thread-safe. May raise any exception of the underlying library."""

    def sizes(self, names: Sequence[str]) -> Sequence[int]:
        """Return the decoded bytes of some columns per chunk. May raise any exception of the underlying library."""

    def close(self) -> None:
        """Close the file."""


class ChunkedSource(Closeable):
    """A `Source` on top of a `ChunkReader`. It is thread-safe."""

    friends: Sequence[DeclaredFriend] = ()

    def __init__(self, reader: ChunkReader, ranges: ByteRanges, tree: str = "") -> None:
        """Take ownership of a reader and of the bytes that it reads.

        Args:
            tree: name of the RNTuple in the file, "" for other formats.

        Raises:
            FileUnreadable: the lengths of the chunks are damaged.
        """
        if reader.edges[0] != 0 or any(begin >= end for begin, end in pairwise(reader.edges)):
            raise FileUnreadable(f"cannot read {ranges.location}: its numbers of entries are damaged")
        self._ranges = ranges
        self._tree = tree
        self.identity = reader.identity
        self.columns = reader.columns
        self.boundaries = list(reader.edges)
        self.num_entries = self.boundaries[-1]
        self._reader = reader
        self._cache: OrderedDict[tuple[int, str], Values] = OrderedDict()
        self._cache_lock = Lock()
        self._chunk_locks = [Lock() for _ in self.boundaries]

    @property
    def location(self) -> str:
        """The path or URL that is read, without credentials."""
        return self._ranges.location

    def cluster_sizes(self, names: Iterable[str]) -> Sequence[ClusterSize]:
        """Estimate the decoded size of some columns; see `Source.cluster_sizes`. A chunk is decoded as a whole."""
        try:
            sizes = self._reader.sizes(list(dict.fromkeys(names)))
        except Unreachable:
            raise
        except Exception:  # damaged metadata, which `read` reports
            return ()
        lengths = [end - begin for begin, end in pairwise(self.boundaries)]
        return [ClusterSize(size / length, length) for size, length in zip(sizes, lengths, strict=True)]

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns; see `Source.read`."""
        names = columns_to_read(self.columns, names, self.location, self._tree)
        parts: dict[str, list[Values]] = {name: [] for name in names}
        for chunk, (begin, end) in enumerate(pairwise(self.boundaries)):
            if begin < stop and start < end and names:
                for name, values in self._chunk(chunk, names).items():
                    parts[name].append(slice_events(values, max(start - begin, 0), min(stop, end) - begin))
        empty = empty_columns(self.columns, names)
        return {name: concatenate_events(values) if values else empty[name] for name, values in parts.items()}

    def _chunk(self, chunk: int, names: Sequence[str]) -> Columns:
        """Return some columns of a chunk, from the cache or decoded."""
        with self._chunk_locks[chunk]:  # threads that need the same chunk wait for the first one
            with self._cache_lock:
                columns = {name: self._cache[chunk, name] for name in names if (chunk, name) in self._cache}
            missing = [name for name in names if name not in columns]
            if missing:
                decoded = read_with_fallback(self._ranges, lambda: self._decode(chunk, missing))
                with self._cache_lock:
                    self._add_to_cache(chunk, decoded)
                columns.update(decoded)
        return {name: columns[name] for name in names}

    def _decode(self, chunk: int, names: Sequence[str]) -> Columns:
        try:
            return self._load(chunk, names)
        except Unreachable:
            raise
        except Exception as error:  # each library has exceptions of its own
            begin, end = self.boundaries[chunk : chunk + 2]
            raise FileUnreadable(
                f"cannot read {self._failing_column(chunk, names)} of {self.location}, entries {begin} to {end - 1}:"
                f" {error_summary(error)}"
            ) from error

    def _load(self, chunk: int, names: Sequence[str]) -> Columns:
        begin, end = self.boundaries[chunk : chunk + 2]
        columns = self._reader.load(chunk, names)
        check_lengths(columns, end - begin)  # libraries may return fewer entries without an error
        return columns

    def _failing_column(self, chunk: int, names: Sequence[str]) -> str:
        for name in names:
            try:
                self._load(chunk, [name])
            except Exception:
                return f"column '{name}'"
        return "the columns"

    def _add_to_cache(self, chunk: int, decoded: Columns) -> None:
        self._cache.update({(chunk, name): values for name, values in decoded.items()})
        free = CACHE_BYTES - sum(map(nbytes, self._cache.values()))
        while free < 0:
            free += nbytes(self._cache.popitem(last=False)[1])

    def close(self) -> None:
        """Close the file."""
        self._cache.clear()
        self._reader.close()
        self._ranges.close()


def columns_to_read(available: Mapping[str, Column], names: Iterable[str], location: str, tree: str = "") -> list[str]:
    """Return the names of columns without repetitions.

    Args:
        tree: name of the RNTuple in the file, "" for other formats.

    Raises:
        BranchNotFound: there is no column of a name.
        FileUnreadable: a column is not readable, see `check_readable`.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in available:
            close, hint = nearest(name, available), list_all(location, tree)
            raise BranchNotFound(f"branch '{name}' is not in {location}", nearest=close, hint=hint)
    check_readable(available, names, location)
    return names
