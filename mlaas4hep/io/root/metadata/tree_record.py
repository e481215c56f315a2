"""Parse the record of a TTree, ten times as fast as uproot.

    record = read_record(ranges, find_tree(uproot_file, "Events", ""))     # None: not supported, use uproot
    record.entries, record.columns["Muon_pt"], record.basket_layout("Muon_pt")

The record of a NanoAOD tree with a thousand branches has two megabytes, of which only the positions of the baskets are
needed. This module supports trees whose branches have the types of `branch_types`. In all other cases, `read_record`
returns None, and uproot reads the tree. Tests check that both give the same result.

The format: the streamers of TTree (16 to 20), TNtuple (1, 2), TBranch (11 to 13), TBranchElement (9, 10) and TLeaf (2)
in ROOT.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from uproot import const

from mlaas4hep.io.columns import Column, Kind
from mlaas4hep.io.records.columns import Records
from mlaas4hep.io.root.basket_sizes import Baskets
from mlaas4hep.io.root.baskets import BasketLayout
from mlaas4hep.io.root.branch_names import first_of_each_name
from mlaas4hep.io.root.metadata.branch_types import (
    ELEMENT_CODES,
    LEAF_CODES,
    BranchType,
    ElementMetadata,
    LeafMetadata,
    describe,
    describe_group,
)
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
_BRANCH = struct.Struct(">8xiiq")  # fCompress, fBasketSize, fEntryOffsetLen, fWriteBasket, fEntryNumber
_BRANCH_REST = struct.Struct(">4xI20xq8x")  # fOffset, fMaxBaskets, fSplitLevel to fFirstEntry, fTotBytes, fZipBytes
_LEAF = struct.Struct(">i9x?")  # fLen, fLenType to fIsRange, fIsUnsigned
_ELEMENTS = {9: struct.Struct(">8xiii4x"), 10: struct.Struct(">6xiii4x")}
"""From fCheckSum to fMaximum, by version of TBranchElement: fID, fType, fStreamerType."""
_LEAF_ELEMENT = struct.Struct(">4xi")  # fID, fType


class Branch(NamedTuple):
    """A branch: its column, and the metadata of its baskets.

    Attributes:
        column: description of the column.
        kind: how the numbers are stored.
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
    kind: BranchType
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
        if self.column.kind is Kind.OTHER or self.edges is None or not self.kind.has_layout:
            return None
        sizes = np.frombuffer(self.record, ">i4", self.written, self.at + 1).astype(np.int64)
        seeks = np.frombuffer(self.record, ">i8", self.written, self.at + 3 + 12 * self.capacity).astype(np.int64)
        if (sizes <= 0).any() or (seeks <= 0).any():
            return None
        shape = None if self.column.kind.depth else (self.column.size,) if self.column.kind is Kind.FIXED else ()
        embedded = tuple(basket.as_stored(self.record) for basket in self.embedded)
        return BasketLayout(self.kind.stored, shape, self.kind.header, self.edges, seeks, sizes, embedded)

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
            self.header((1, 2))  # of TNtuple or TNtupleD
        version, _ = self.header(_TREES)
        name, _ = self.named()
        for _ in range(3):  # TAttLine, TAttFill, TAttMarker
            self.skip()
        entries, *ranges = self.unpack(_TREES[version])
        for count in ranges:
            self.at += 2 * (1 + 8 * count)  # fClusterRangeEnd, fClusterSize
        if version == 20:
            self.skip()  # fIOFeatures
        found = [pair for _ in range(self.array()[0]) for pair in self._branches("", entries)]
        named = first_of_each_name(found, where)
        return TreeRecord(name.decode(), entries, {path: branch for path, branch in named if branch is not None})

    def _branches(self, parent: str, entries: int) -> list[tuple[str, Branch | None]]:
        """Read a branch; return it and its sub-branches by path. A group of sub-branches is None."""
        _, kind, end_of_object = self.object()
        if kind not in (b"TBranch", b"TBranchElement"):
            raise UnsupportedRecord("a class of branches that is not supported")
        element_version = self.header(_ELEMENTS)[0] if kind == b"TBranchElement" else 0
        version, end = self.header((11, 12, 13))
        name = parent + self.named()[0].decode()
        self.skip()  # TAttFill
        offsets, written, filled = self.unpack(_BRANCH)
        if version == 13:
            self.skip()  # fIOFeatures
        capacity, decoded = self.unpack(_BRANCH_REST)
        count, _ = self.array()
        members = [pair for _ in range(count) for pair in self._branches(f"{name}/", entries)] if count else []
        leaf = self._only_leaf()
        embedded = read_embedded(self)
        at, self.at = self.at, end
        element = self._element(element_version, bool(offsets), not parent) if element_version else None
        self.at = end_of_object
        described = describe_group(name, element) if members else describe(name, leaf, element)
        if described is None or (members and not filled):
            return [(name, None), *members]
        written = _count_stored(written, embedded)
        if at + 3 + 20 * capacity > end or end > len(self.data) or not 0 <= written <= capacity:
            raise UnsupportedRecord("arrays of invalid size")
        column = described.column
        if filled < entries and column.kind is not Kind.OTHER:
            column = Column.unsupported(name, too_short(filled, entries))
        edges = self._edges(at + 2 + 4 * capacity, min(written + 1, capacity), embedded, written, filled)
        branch = Branch(column, described, filled, edges, written, capacity, decoded, embedded, self.data, at)
        return [(name, branch), *members]

    def _edges(
        self, at: int, count: int, embedded: tuple[EmbeddedBasket, ...], written: int, filled: int
    ) -> np.ndarray | None:
        """Return the edges of a branch, of which the record has `count` at a position; see `Branch`."""
        return _edges(self.data[at : at + 8 * count], tuple([one.entries for one in embedded]), written, filled)

    def _element(self, version: int, has_offsets: bool, is_top: bool) -> ElementMetadata:
        """Read what a TBranchElement has in addition to a TBranch."""
        class_name = self.string()
        self.string(), self.string()  # fParentName, fClonesName
        member, form, stored = self.unpack(_ELEMENTS[version])
        return ElementMetadata(class_name, member, form, stored, has_offsets, is_top)

    def _only_leaf(self) -> LeafMetadata | None:
        """Read the leaves of a branch; return the only one, or None."""
        count, _ = self.array()
        if count == 1:
            return self._leaf()
        for _ in range(count):
            self._leaf()
        return None

    def _leaf(self) -> LeafMetadata:
        """Read a leaf, or return the earlier leaf that is referred to."""
        reference, kind, end = self.object()
        if not kind:
            return self._leaves[reference]
        self.header((1,))
        _, end_of_base = self.header((2,))
        _, title = self.named()
        length, is_unsigned = self.unpack(_LEAF)
        has_counter = self.data[self.at : self.at + 4] != b"\0\0\0\0"
        if has_counter:
            self._leaf()
        if kind == b"TLeafElement":
            self.at = end_of_base
            code = _code_of_element(*self.unpack(_LEAF_ELEMENT))
        else:
            code = LEAF_CODES[kind, is_unsigned]
        self.at = end
        leaf = self._leaves[reference] = LeafMetadata(code, title, length, has_counter)
        return leaf


def _count_stored(written: int, embedded: tuple[EmbeddedBasket, ...]) -> int:
    """Return the number of baskets in the file, given fWriteBasket: baskets in memory may precede the last one."""
    if embedded and embedded[0].number > written:
        raise UnsupportedRecord("embedded baskets in an unknown order")
    return embedded[0].number if embedded else written


def _code_of_element(kind: int) -> str:
    """Return the type code of a TLeafElement, given its fType; "" if it is not a number."""
    return ELEMENT_CODES.get(kind - const.kOffsetL if const.kOffsetL < kind < const.kOffsetP else kind, "")
