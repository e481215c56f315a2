"""Parse the record of a simple TTree, ten times as fast as uproot.

    record = read_record(ranges, find_tree(uproot_file, "Events", ""))     # None: not supported, use uproot
    record.entries, record.columns["Muon_pt"], record.basket_layout("Muon_pt")

The record of a NanoAOD tree with a thousand branches has two megabytes, of which only the positions of the baskets are
needed. This module supports trees of TBranch with one numeric TLeaf each, without sub-branches and embedded baskets. In
all other cases, `read_record` returns None, and uproot reads the tree. Tests check that both give the same result.

The format: ROOT's TBufferFile::ReadObjectAny and the streamers of TTree (19, 20), TBranch (12, 13) and TLeaf (2).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mlaas4hep.io.columns import Column, Kind
from mlaas4hep.io.records.columns import Records
from mlaas4hep.io.records.types import LEAVES
from mlaas4hep.io.root.basket_sizes import Baskets
from mlaas4hep.io.root.baskets import BasketLayout
from mlaas4hep.io.root.tree_keys import read_object
from mlaas4hep.io.root.uproot_branches import too_short
from mlaas4hep.io.storage.byte_ranges import ByteRanges

_COUNT = 0x40000000
"""Flag of a word that is a number of bytes."""
_CLASS = 0x80000000
"""Flag of a tag that refers to an earlier class."""
_NEW_CLASS = 0xFFFFFFFF
_MAP_OFFSET = 2
"""Difference between a tag and the position that it refers to."""
_REFERENCED = 1 << 4
"""Flag of an object that others refer to, which has two more bytes."""

_WORD = struct.Struct(">I")
_HEADER = struct.Struct(">IH")  # number of bytes, version
_NAMED = struct.Struct(">IHHIIB")  # _HEADER, TObject (version, fUniqueID, fBits), length of the name
_ARRAY = struct.Struct(">ii")  # fSize, fLowerBound
_TREE = struct.Struct(">qqqqqdiiiiIqqqqqq")  # from fEntries to fEstimate; fNClusterRange is the eleventh
_BRANCH = struct.Struct(">iiiiq")  # fCompress, fBasketSize, fEntryOffsetLen, fWriteBasket, fEntryNumber
_BRANCH_REST = struct.Struct(">iIiqqqq")  # fOffset, fMaxBaskets, fSplitLevel, fEntries, ...
_LEAF = struct.Struct(">iii??")  # fLen, fLenType, fOffset, fIsRange, fIsUnsigned

_TYPES = {name.encode(): code for name, code in LEAVES.items() if name != "TLeafG"}  # which uproot reads
_TEXT = b"TLeafC"

_HAS_DIMENSIONS = re.compile(rb"[^\[\]]*\[[^\[\]]+\]")
_DIMENSION = re.compile(rb"\[([1-9][0-9]*)\]")


class UnsupportedTree(Exception):
    """A tree is damaged, or not supported by this module."""


@dataclass(frozen=True, slots=True)
class LeafMetadata:
    """The TLeaf of a branch: its class, its title with dimensions, and whether another leaf gives its length."""

    kind: bytes
    title: bytes
    length: int
    is_unsigned: bool
    is_counted: bool

    def describe(self, name: str) -> tuple[Column, np.dtype[Any]]:
        """Return the column, and the type of its numbers in the file."""
        if self.kind == _TEXT:
            return Column.unsupported(name, "char*: not a number"), np.dtype(object)
        code = _TYPES[self.kind]
        stored = np.dtype(">" + (code.replace("i", "u") if self.is_unsigned else code))
        dimensions = [int(size) for size in _DIMENSION.findall(self.title)] if _HAS_DIMENSIONS.match(self.title) else []
        if math.prod(dimensions) != max(self.length, 1):
            raise UnsupportedTree("the length of a leaf differs from its title")  # see `interpretation_of`
        return Column.of(name, stored.newbyteorder("="), tuple(dimensions), self.is_counted), stored


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch: its column, and the metadata of its baskets.

    Attributes:
        column: description of the column.
        stored: type of the numbers in the file.
        entries: number of entries in all baskets.
        written: number of baskets.
        capacity: allocated length of the arrays in the record.
        decoded: decompressed bytes of all baskets, according to the record.
        record, at: the record, and the position of three arrays in it, each preceded by one byte: bytes (int32), first
            entry (int64) and file position (int64) of each basket.
    """

    column: Column
    stored: np.dtype[Any]
    entries: int
    written: int
    capacity: int
    decoded: int
    record: bytes
    at: int

    def basket_layout(self) -> BasketLayout | None:
        """Return the basket layout; None if the branch is not numeric, or the metadata are damaged."""
        edges = self.edges
        if self.column.kind is Kind.OTHER or edges is None:
            return None
        sizes = self.sizes.astype(np.int64)
        seeks = np.frombuffer(self.record, ">i8", self.written, self.at + 3 + 12 * self.capacity).astype(np.int64)
        if (sizes <= 0).any() or (seeks <= 0).any():
            return None
        shape = None if self.column.kind.depth else (self.column.size,) if self.column.kind is Kind.FIXED else ()
        return BasketLayout(self.stored, shape, 0, edges, seeks, sizes)

    @property
    def sizes(self) -> np.ndarray:
        """Compressed bytes of each basket."""
        return np.frombuffer(self.record, ">i4", self.written, self.at + 1)

    @property
    def raw_edges(self) -> bytes:
        """Bytes of the array with the first entry of each basket, and of the next one."""
        begin = self.at + 2 + 4 * self.capacity
        return self.record[begin : begin + 8 * min(self.written + 1, self.capacity)]

    @property
    def edges(self) -> np.ndarray | None:
        """The first entry of each basket, and the number of entries; None if the record is damaged."""
        return _edges(self.raw_edges, self.written, self.entries)


@lru_cache(maxsize=64)
def _edges(raw: bytes, written: int, entries: int) -> np.ndarray | None:
    """Parse edges. Most branches of a tree share the result, which must not be modified."""
    edges = np.frombuffer(raw, ">i8").astype(np.int64)
    is_valid = len(edges) == written + 1 and edges[0] == 0 and edges[-1] == entries
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
        branch = self._branches[name]
        edges = branch.edges
        return None if edges is None else Baskets(edges, branch.sizes, branch.decoded)

    def edges(self) -> list[np.ndarray]:
        """Return the distinct edges of the baskets of all branches that have all entries."""
        branches = self._branches.values()
        distinct = {branch.raw_edges: branch for branch in branches if branch.entries >= self.entries}
        parsed = [branch.edges for branch in distinct.values()]
        return [np.array([0, self.entries]) if edges is None else edges for edges in parsed]


def read_record(ranges: ByteRanges, key: Any) -> TreeRecord | None:
    """Read the record of a tree, given its key; return None if uproot has to read it.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return _Parser(read_object(ranges, key), int(key.fKeylen)).tree()
    except OSError:
        raise
    except Exception:  # uproot reads the tree, or reports the damage
        return None


class _Parser:
    """Parser of a record, with a current position."""

    def __init__(self, data: bytes, origin: int) -> None:
        self._data = data
        self._origin = origin
        self._at = 0
        self._classes: dict[int, bytes] = {}
        self._objects: dict[int, LeafMetadata] = {}

    def tree(self) -> TreeRecord:
        version, _ = self._header((19, 20))
        name, _ = self._named()
        for _ in range(3):  # TAttLine, TAttFill, TAttMarker
            self._skip()
        fields = self._unpack(_TREE)
        self._at += 2 * (1 + 8 * fields[10])  # fClusterRangeEnd, fClusterSize
        if version == 20:
            self._skip()  # fIOFeatures
        branches: dict[str, Branch] = {}
        for _ in range(self._array()):
            branch = self._branch(fields[0])
            if branch.column.name in branches:
                raise UnsupportedTree("two branches with the same name")
            branches[branch.column.name] = branch
        return TreeRecord(name.decode(), fields[0], branches)

    def _branch(self, entries: int) -> Branch:
        _, kind, _ = self._object()
        if kind != b"TBranch":
            raise UnsupportedTree(kind)
        version, end = self._header((12, 13))
        name, _ = self._named()
        self._skip()  # TAttFill
        *_, written, filled = self._unpack(_BRANCH)
        if version == 13:
            self._skip()  # fIOFeatures
        _, capacity, _, _, _, decoded, _ = self._unpack(_BRANCH_REST)
        if self._array() or self._array() != 1:
            raise UnsupportedTree("sub-branches, or several leaves")
        column, stored = self._leaf_any().describe(name.decode())
        baskets, end_of_baskets = self._array_header()
        if self._data[self._at : end_of_baskets] != bytes(4 * baskets):
            raise UnsupportedTree("embedded baskets")
        self._at = end_of_baskets
        if self._at + 3 + 20 * capacity > end or end > len(self._data) or not 0 <= written <= capacity:
            raise UnsupportedTree("arrays of invalid size")
        if filled < entries and column.kind is not Kind.OTHER:
            column = Column.unsupported(column.name, too_short(filled, entries))
        branch = Branch(column, stored, filled, written, capacity, decoded, self._data, self._at)
        self._at = end
        return branch

    def _leaf_any(self) -> LeafMetadata:
        """Read a leaf, or return the earlier leaf that is referred to."""
        start, kind, reference = self._object()
        if reference:
            return self._objects[reference]
        if kind not in _TYPES and kind != _TEXT:
            raise UnsupportedTree(kind)
        _, end = self._header((1,))
        self._header((2,))
        _, title = self._named()
        length, _, _, _, is_unsigned = self._unpack(_LEAF)
        has_counter = self._data[self._at : self._at + 4] != b"\0\0\0\0"
        if has_counter:
            self._leaf_any()
        leaf = LeafMetadata(kind, title, length, is_unsigned, has_counter)
        self._at = end
        self._objects[start + _MAP_OFFSET] = leaf
        return leaf

    def _object(self) -> tuple[int, bytes, int]:
        """Read the beginning of an object; return its position, its class, and the tag if it is a reference."""
        start = self._at + self._origin
        count = self._word()
        if not count & _COUNT or count == _NEW_CLASS:
            if 0 < count < _CLASS:
                return start, b"", count
            raise UnsupportedTree("an object without a length")
        position = self._at + self._origin
        tag = self._word()
        if tag == _NEW_CLASS:
            end = self._data.index(b"\0", self._at)
            kind = self._data[self._at : end]
            self._at = end + 1
            self._classes[position + _MAP_OFFSET] = kind
            return start, kind, 0
        if tag & _CLASS:
            return start, self._classes[tag & ~_CLASS], 0
        raise UnsupportedTree("an object without a class")

    def _header(self, versions: tuple[int, ...]) -> tuple[int, int]:
        """Read the length and the version of a part; return the version, and the end of the part."""
        start = self._at
        count, version = _HEADER.unpack_from(self._data, start)
        self._at += _HEADER.size
        if not count & _COUNT or version not in versions:
            raise UnsupportedTree("an unsupported version")
        return version, start + 4 + (count & ~_COUNT)

    def _skip(self) -> None:
        start = self._at
        count = self._word()
        if not count & _COUNT:
            raise UnsupportedTree("a part without a length")
        self._at = start + 4 + (count & ~_COUNT)

    def _named(self) -> tuple[bytes, bytes]:
        """Read a TNamed: name and title."""
        name, end = self._object_with_name(1)
        title = self._string()
        if self._at != end:
            raise UnsupportedTree("a name of invalid length")
        return name, title

    def _object_with_name(self, expected: int) -> tuple[bytes, int]:
        """Read header, TObject and name of a part of the expected version; return the name, and the end of the part.

        These are most of a record, so they take a single call.
        """
        data, at = self._data, self._at
        count, version, _, _, bits, length = _NAMED.unpack_from(data, at)
        if not count & _COUNT or version != expected:
            raise UnsupportedTree("an unsupported version")
        end = at + 4 + (count & ~_COUNT)
        at += _NAMED.size
        if bits & _REFERENCED or length == 255:  # two bytes follow TObject; or four with the length
            self._at = at - 1 + (2 if bits & _REFERENCED else 0)
            return self._string(), end
        self._at = at + length
        return data[at : at + length], end

    def _string(self) -> bytes:
        length = self._data[self._at]
        self._at += 1
        if length == 255:
            length = self._word()
        self._at += length
        return self._data[self._at - length : self._at]

    def _array_header(self) -> tuple[int, int]:
        """Read the beginning of a TObjArray; return its number of objects, and its end."""
        _, end = self._object_with_name(3)
        size, _ = _ARRAY.unpack_from(self._data, self._at)
        self._at += _ARRAY.size
        if size < 0 or end > len(self._data):
            raise UnsupportedTree("an array of invalid size")
        return size, end

    def _array(self) -> int:
        return self._array_header()[0]

    def _word(self) -> int:
        word: int = _WORD.unpack_from(self._data, self._at)[0]
        self._at += 4
        return word

    def _unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        fields = form.unpack_from(self._data, self._at)
        self._at += form.size
        return fields
