"""Parse the record of a simple TTree, ten times as fast as uproot.

    record = read_record(ranges, find_tree(uproot_file, "Events", ""))     # None: not supported, use uproot
    record.entries, record.columns["Muon_pt"], record.basket_layout("Muon_pt")

The record of a NanoAOD tree with a thousand branches has two megabytes, of which only the positions of the baskets are
needed. This module supports trees of TBranch with one numeric TLeaf each, without sub-branches. In all other cases,
`read_record` returns None, and uproot reads the tree. Tests check that both give the same result.

The format: the streamers of TTree (16 to 20), TNtuple (2), TBranch (11 to 13) and TLeaf (2) in ROOT.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mlaas4hep.io.columns import Column, Kind
from mlaas4hep.io.records.columns import Records
from mlaas4hep.io.records.types import LEAVES
from mlaas4hep.io.root.basket_sizes import Baskets
from mlaas4hep.io.root.baskets import BasketLayout
from mlaas4hep.io.root.branch_names import first_of_each_name
from mlaas4hep.io.root.metadata.embedded_baskets import EmbeddedBasket, read_embedded
from mlaas4hep.io.root.metadata.record_buffer import RecordBuffer, UnsupportedRecord
from mlaas4hep.io.root.tree_keys import read_object
from mlaas4hep.io.root.uproot_branches import too_short
from mlaas4hep.io.storage.byte_ranges import ByteRanges

_TREES = {
    16: struct.Struct(">q84x"),
    17: struct.Struct(">q88x"),
    18: struct.Struct(">q104x"),
    19: struct.Struct(">q56xI48x"),
    20: struct.Struct(">q56xI48x"),
}
"""From fEntries to fEstimate, by version of TTree: fEntries, and fNClusterRange from version 19."""
_BRANCH = struct.Struct(">12xiq")  # fCompress to fEntryOffsetLen, fWriteBasket, fEntryNumber
_BRANCH_REST = struct.Struct(">4xI20xq8x")  # fOffset, fMaxBaskets, fSplitLevel to fFirstEntry, fTotBytes, fZipBytes
_LEAF = struct.Struct(">i9x?")  # fLen, fLenType to fIsRange, fIsUnsigned

_TYPES = {name.encode(): code for name, code in LEAVES.items() if name != "TLeafG"}  # which uproot reads
_TEXT = b"TLeafC"

_HAS_DIMENSIONS = re.compile(rb"[^\[\]]*\[[^\[\]]+\]")
_DIMENSION = re.compile(rb"\[([1-9][0-9]*)\]")


class LeafMetadata(NamedTuple):
    """The TLeaf of a branch: its class, its title with dimensions, and whether another leaf gives its length."""

    kind: bytes
    title: bytes
    length: int
    is_unsigned: bool
    is_counted: bool


@lru_cache(maxsize=4096)
def _describe(name: bytes, leaf: LeafMetadata) -> tuple[Column, np.dtype[Any]]:
    """Return the column of a branch, and the type of its numbers in the file. The files of a sample share columns."""
    if leaf.kind == _TEXT:
        return Column.unsupported(name.decode(), "char*: not a number"), np.dtype(object)
    code = _TYPES[leaf.kind]
    stored = np.dtype(">" + (code.replace("i", "u") if leaf.is_unsigned else code))
    dimensions = [int(size) for size in _DIMENSION.findall(leaf.title)] if _HAS_DIMENSIONS.match(leaf.title) else []
    if math.prod(dimensions) != max(leaf.length, 1):
        raise UnsupportedRecord("the length of a leaf differs from its title")  # see `interpretation_of`
    return Column.of(name.decode(), stored.newbyteorder("="), tuple(dimensions), leaf.is_counted), stored


class Branch(NamedTuple):
    """A branch: its column, and the metadata of its baskets.

    Attributes:
        column: description of the column.
        stored: type of the numbers in the file.
        entries: number of entries in all baskets.
        edges: the first entry of each basket, and the number of entries, int64 (baskets + 1,); None if the record is
            damaged. Branches share it, and it must not be modified.
        written: number of baskets that are not embedded in the record.
        capacity: allocated length of the arrays in the record.
        decoded: decompressed bytes of the baskets that are not embedded, according to the record.
        embedded: the baskets that are embedded in the record, which follow the others.
        record, at: the record, and the position of three arrays in it, each preceded by one byte: bytes (int32), first
            entry (int64) and file position (int64) of each basket.
    """

    column: Column
    stored: np.dtype[Any]
    entries: int
    edges: np.ndarray | None
    written: int
    capacity: int
    decoded: int
    embedded: tuple[EmbeddedBasket, ...]
    record: bytes
    at: int

    def basket_layout(self) -> BasketLayout | None:
        """Return the basket layout; None if the branch is not numeric, or the metadata are damaged."""
        if self.column.kind is Kind.OTHER or self.edges is None:
            return None
        sizes = np.frombuffer(self.record, ">i4", self.written, self.at + 1).astype(np.int64)
        seeks = np.frombuffer(self.record, ">i8", self.written, self.at + 3 + 12 * self.capacity).astype(np.int64)
        if (sizes <= 0).any() or (seeks <= 0).any():
            return None
        shape = None if self.column.kind.depth else (self.column.size,) if self.column.kind is Kind.FIXED else ()
        embedded = tuple(basket.as_stored(self.record) for basket in self.embedded)
        return BasketLayout(self.stored, shape, 0, self.edges, seeks, sizes, embedded)

    @property
    def baskets(self) -> Baskets | None:
        """The sizes of the baskets; None if the metadata are damaged."""
        if self.edges is None:
            return None
        sizes = np.frombuffer(self.record, ">i4", self.written, self.at + 1)
        if not self.embedded:
            return Baskets(self.edges, sizes, self.decoded)
        embedded = [basket.nbytes for basket in self.embedded]
        return Baskets(self.edges, np.concatenate([sizes, embedded]), self.decoded + sum(embedded))


@lru_cache(maxsize=64)
def _edges(raw: bytes, embedded: tuple[int, ...], written: int, entries: int) -> np.ndarray | None:
    """Return the edges of a branch, given the array in the record, and the entries of its embedded baskets."""
    edges = np.frombuffer(raw, ">i8").astype(np.int64)
    if len(edges) != written + 1:
        return None
    edges = np.concatenate([edges, edges[-1] + np.cumsum(np.array(embedded, np.int64))])
    is_valid = edges[0] == 0 and edges[-1] == entries
    return edges if is_valid and (np.diff(edges) >= 0).all() else None


class TreeRecord:
    """The metadata in a record; see `TreeMetadata` in `ttree`."""

    def __init__(self, name: str, entries: int, branches: Mapping[str, Branch]) -> None:
        self.name = name
        self.entries = entries
        self._branches = branches
        self.columns: Mapping[str, Column] = {name: branch.column for name, branch in branches.items()}
        self.records = Records()

    def basket_layout(self, name: str) -> BasketLayout | None:
        """Return the basket layout of a branch; None if uproot must read it."""
        return self._branches[name].basket_layout()

    def baskets(self, name: str) -> Baskets | None:
        """Return the sizes of the baskets of a branch; None if the record is damaged."""
        return self._branches[name].baskets

    def edges(self) -> list[np.ndarray]:
        """Return the distinct edges of the baskets of all branches that have all entries."""
        complete = [branch.edges for branch in self._branches.values() if branch.entries >= self.entries]
        distinct = {id(edges): edges for edges in complete}.values()
        return [np.array([0, self.entries]) if edges is None else edges for edges in distinct]


def read_record(ranges: ByteRanges, key: Any) -> TreeRecord | None:
    """Read the record of a tree, given its key; return None if uproot has to read it.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        parser = _Parser(read_object(ranges, key), int(key.fKeylen))
        return parser.tree(key.fClassName, f"tree '{key.fName}' of {key.file.file_path}")
    except OSError:
        raise
    except Exception:  # uproot reads the tree, or reports the damage
        return None


class _Parser(RecordBuffer):
    """Parser of the record of a tree."""

    def __init__(self, data: bytes, origin: int) -> None:
        super().__init__(data, origin)
        self._leaves: dict[int, LeafMetadata] = {}

    def tree(self, kind: str, where: str) -> TreeRecord:
        """Read a tree, given its class, and a description of it and its file for notices."""
        if kind != "TTree":
            self.header((2,))  # of TNtuple
        version, _ = self.header(_TREES)
        name, _ = self.named()
        for _ in range(3):  # TAttLine, TAttFill, TAttMarker
            self.skip()
        entries, *ranges = self.unpack(_TREES[version])
        for count in ranges:
            self.at += 2 * (1 + 8 * count)  # fClusterRangeEnd, fClusterSize
        if version == 20:
            self.skip()  # fIOFeatures
        branches = [self._branch(entries) for _ in range(self.array()[0])]
        named = first_of_each_name(((branch.column.name, branch) for branch in branches), where)
        return TreeRecord(name.decode(), entries, dict(named))

    def _branch(self, entries: int) -> Branch:
        if self.object()[1] != b"TBranch":
            raise UnsupportedRecord("a class of branches that is not supported")
        version, end = self.header((11, 12, 13))
        name, _ = self.named()
        self.skip()  # TAttFill
        written, filled = self.unpack(_BRANCH)
        if version == 13:
            self.skip()  # fIOFeatures
        capacity, decoded = self.unpack(_BRANCH_REST)
        if self.array()[0] or self.array()[0] != 1:
            raise UnsupportedRecord("sub-branches, or several leaves")
        column, stored = _describe(name, self._leaf())
        embedded = read_embedded(self)
        at = self.at
        if at + 3 + 20 * capacity > end or end > len(self.data) or not 0 <= written <= capacity:
            raise UnsupportedRecord("arrays of invalid size")
        if embedded:
            if embedded[0].number > written:
                raise UnsupportedRecord("embedded baskets in an unknown order")
            written = embedded[0].number  # baskets that were not written yet may precede the last one
        begin = at + 2 + 4 * capacity
        raw = self.data[begin : begin + 8 * min(written + 1, capacity)]
        edges = _edges(raw, tuple([basket.entries for basket in embedded]), written, filled)
        if filled < entries and column.kind is not Kind.OTHER:
            column = Column.unsupported(column.name, too_short(filled, entries))
        self.at = end
        return Branch(column, stored, filled, edges, written, capacity, decoded, embedded, self.data, at)

    def _leaf(self) -> LeafMetadata:
        """Read a leaf, or return the earlier leaf that is referred to."""
        reference, kind, end = self.object()
        if not kind:
            return self._leaves[reference]
        if kind not in _TYPES and kind != _TEXT:
            raise UnsupportedRecord("a class of leaves that is not supported")
        self.header((1,))
        self.header((2,))
        _, title = self.named()
        length, is_unsigned = self.unpack(_LEAF)
        has_counter = self.data[self.at : self.at + 4] != b"\0\0\0\0"
        if has_counter:
            self._leaf()
        self.at = end
        leaf = self._leaves[reference] = LeafMetadata(kind, title, length, is_unsigned, has_counter)
        return leaf
