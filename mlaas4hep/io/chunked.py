"""Sources whose files are read a chunk at a time: the clusters of an RNTuple, the row groups of a Parquet file.

    ChunkedSource(ParquetStore("data.parquet"), "data.parquet").read(["MET_pt"], 0, 1000)

A store knows one format and decodes whole chunks; what a source promises beyond that is here, once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from threading import Lock
from typing import Protocol

from mlaas4hep.closing import Closing
from mlaas4hep.errors import BranchNotFound, FileUnreadable, Unreachable, first_line, nearest
from mlaas4hep.io.byte_ranges import ByteRanges
from mlaas4hep.io.columns import Column, Columns, Values, join_events, no_events, size_of, slice_events
from mlaas4hep.io.replicas import read_believed

KEPT = 256_000_000
"""Bytes of decoded chunks that are kept, so that a chunk which is read in several stretches is decoded once."""


class Store(Protocol):
    """One file of one format.

    Attributes:
        identity: a name of the content that moving or renaming the file does not change.
        columns: what can be read, by name.
        edges: entry numbers, from 0 to the number of entries, at which chunks begin and end; strictly increasing.
    """

    identity: str
    columns: Mapping[str, Column]
    edges: Sequence[int]

    def load(self, chunk: int, names: Sequence[str]) -> Columns:
        """Decode some columns of a whole chunk; may raise whatever the library raises."""

    def close(self) -> None:
        """Give back the file."""


class ChunkedSource(Closing):
    """A `Source` on top of a store; threads may share it."""

    def __init__(self, store: Store, ranges: ByteRanges) -> None:
        """Take over a store, and the bytes that it reads.

        Raises:
            FileUnreadable: the lengths of its chunks are damaged.
        """
        if store.edges[0] != 0 or any(begin >= end for begin, end in pairwise(store.edges)):
            raise FileUnreadable(f"cannot read {ranges.location}: the numbers of entries in it are damaged")
        self._ranges = ranges
        self.identity = store.identity
        self.columns = store.columns
        self.boundaries = list(store.edges)
        self.num_entries = self.boundaries[-1]
        self._store = store
        self._kept: OrderedDict[tuple[int, str], Values] = OrderedDict()
        self._lock = Lock()

    @property
    def location(self) -> str:
        """The place that is read."""
        return self._ranges.location

    def read(self, names: Iterable[str], start: int, stop: int) -> Columns:
        """Read the entries start <= i < stop of some columns; see `Source.read`."""
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in self.columns:
                hint = f"list all: reader.py --fin={self.location} --info"
                close = nearest(name, self.columns)
                raise BranchNotFound(f"branch '{name}' is not in {self.location}", nearest=close, hint=hint)
        pieces: dict[str, list[Values]] = {name: [] for name in names}
        for chunk, (begin, end) in enumerate(pairwise(self.boundaries)):
            if begin < stop and start < end and names:
                for name, values in self._chunk(chunk, names).items():
                    pieces[name].append(slice_events(values, max(start - begin, 0), min(stop, end) - begin))
        empty = no_events(self.columns, names)
        return {name: join_events(parts) if parts else empty[name] for name, parts in pieces.items()}

    def _chunk(self, chunk: int, names: Sequence[str]) -> Columns:
        """Return some columns of a chunk, kept or decoded."""
        with self._lock:
            known = {name: self._kept[chunk, name] for name in names if (chunk, name) in self._kept}
            missing = [name for name in names if name not in known]
            if missing:
                decoded = read_believed(self._ranges, lambda: self._decode(chunk, missing))
                self._keep(chunk, decoded)
                known.update(decoded)
        return {name: known[name] for name in names}

    def _decode(self, chunk: int, names: Sequence[str]) -> Columns:
        try:
            return self._load(chunk, names)
        except Unreachable:
            raise
        except Exception as error:  # each library has its own
            begin, end = self.boundaries[chunk : chunk + 2]
            raise FileUnreadable(
                f"cannot read {self._find_culprit(chunk, names)} of {self.location}, entries {begin} to {end - 1}:"
                f" {first_line(error)}"
            ) from error

    def _load(self, chunk: int, names: Sequence[str]) -> Columns:
        begin, end = self.boundaries[chunk : chunk + 2]
        columns = self._store.load(chunk, names)
        for values in columns.values():
            if len(values) != end - begin:  # libraries return what there is
                raise ValueError(f"there are {len(values)} entries instead of {end - begin}")
        return columns

    def _find_culprit(self, chunk: int, names: Sequence[str]) -> str:
        for name in names:
            try:
                self._load(chunk, [name])
            except Exception:
                return f"column '{name}'"
        return "the columns"

    def _keep(self, chunk: int, decoded: Columns) -> None:
        self._kept.update({(chunk, name): values for name, values in decoded.items()})
        room = KEPT - sum(map(size_of, self._kept.values()))
        while room < 0:
            room += size_of(self._kept.popitem(last=False)[1])

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        self._store.close()
        self._ranges.close()
