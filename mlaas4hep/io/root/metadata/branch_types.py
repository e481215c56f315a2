"""The columns of the branches of a TTree, given their metadata.

    describe("Jet_pt", LeafMetadata("f4", b"Jet_pt[nJet]", 1, True), None).column
    describe("jets.pt", leaf, ElementMetadata(b"vector<float>", -1, 0, 500, True, True)).column

This module supports numbers, arrays and lists of numbers, vectors and other collections of numbers, vectors of vectors,
and strings, which are not numeric. Everything else raises `UnsupportedRecord`, and uproot describes the branch.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from uproot import const

from mlaas4hep.compiled import KERNEL
from mlaas4hep.io.columns import Column, Kind
from mlaas4hep.io.records.types import LEAVES, LISTS, number_named, template_of
from mlaas4hep.io.root.metadata.record_buffer import UnsupportedRecord

TEXT = "text"
"""Type code of a leaf with text."""
STATUS_BITS = "bits"
"""Type code of a leaf with `TObject::fBits`; see `object_bits`."""

LEAF_CODES = {
    (name.encode(), is_unsigned): code.replace("i", "u") if is_unsigned else code
    for name, code in [*LEAVES.items(), ("TLeafC", TEXT)]
    for is_unsigned in (False, True)
    if name != "TLeafG"
}
"""Type codes of leaves by class and sign, without TLeafG, which uproot reads."""

ELEMENT_CODES = {
    const.kBool: "?", const.kChar: "i1", const.kUChar: "u1", const.kShort: "i2", const.kUShort: "u2", const.kInt: "i4",
    const.kUInt: "u4", const.kCounter: "u4", const.kLong: "i8", const.kULong: "u8", const.kLong64: "i8",
    const.kULong64: "u8", const.kFloat: "f4", const.kDouble: "f8", const.kBits: STATUS_BITS,
}  # fmt: skip
"""Type codes of members of objects, by fType of TLeafElement."""

CLONES = 3
"""Value of fType for a TClonesArray whose members are sub-branches."""
_MEMBER_FORMS = (0, 31, 41)
"""Values of fType for a member of an object, of the objects of a TClonesArray, and of those of a collection."""
_COLLECTION_HEADER = 10
"""Bytes before the numbers of a collection: number of bytes, version, number of numbers."""

_STRINGS = {
    b"string": "std::string",
    b"TString": "TString",
    b"vector<string>": "std::vector<std::string>",
}
_UNKNOWN_TO_UPROOT = re.compile(r"u?int\d+_t|unsigned")
_HAS_DIMENSIONS = re.compile(rb"[^\[\]]*\[[^\[\]]+\]")
_DIMENSION = re.compile(rb"\[([1-9][0-9]*)\]")


class LeafMetadata(NamedTuple):
    """The TLeaf of a branch.

    Attributes:
        code: NumPy type code, TEXT, STATUS_BITS, or "" if it has none.
        title: its title with dimensions.
        length: numbers per entry, or per item of a list.
        is_counted: whether another leaf gives the length of a list.
    """

    code: str
    title: bytes
    length: int
    is_counted: bool


class ElementMetadata(NamedTuple):
    """What a TBranchElement has in addition to a TBranch.

    Attributes:
        class_name: class of the object, or of the object that the branch is a member of.
        member: index of the member (fID); negative: the branch holds the object itself.
        form: form of the branch (fType).
        stored: type in the file (fStreamerType).
        has_offsets: whether entries have different sizes.
        is_top: whether it is a branch of the tree itself.
    """

    class_name: bytes
    member: int
    form: int
    stored: int
    has_offsets: bool
    is_top: bool


class BranchType(NamedTuple):
    """The column of a branch, and how its numbers are stored.

    Attributes:
        column: description of the column.
        stored: type of the numbers in the file; bytes if the column is decoded from the bytes of each entry.
        header: number of bytes before each list.
        has_layout: whether baskets are decoded without uproot.
    """

    column: Column
    stored: np.dtype[Any]
    header: int = 0
    has_layout: bool = True


@lru_cache(maxsize=4096)
def describe(name: str, leaf: LeafMetadata | None, element: ElementMetadata | None) -> BranchType:
    """Return the type of a branch without sub-branches. The files of a sample share it.

    Args:
        name: full path of the branch.
        leaf: its only leaf; None: it has no leaf, or several.
        element: metadata of a TBranchElement; None: the branch is a TBranch.

    Raises:
        UnsupportedRecord: the type is not supported.
    """
    if leaf is None:
        raise UnsupportedRecord("several leaves")
    if element is None:
        return _not_numeric(name, "char*") if leaf.code == TEXT else _numbers(name, leaf, leaf.code)
    if element.stored == const.kTString:
        return _not_numeric(name, "TString")
    if element.is_top and element.member < 0:
        return _collection(name, element.class_name)
    is_member = element.member >= 0 and element.form in _MEMBER_FORMS and const.kBase < element.stored < const.kObject
    if not is_member or not leaf.code:
        raise UnsupportedRecord("a class of members that is not supported")
    if leaf.code == STATUS_BITS:
        return _numbers(name, leaf, "u4")._replace(has_layout=not element.has_offsets)
    return _numbers(name, leaf, leaf.code)


@lru_cache(maxsize=4096)
def describe_group(name: str, element: ElementMetadata | None) -> BranchType | None:
    """Return the type of a branch with sub-branches; None if it has no values of its own.

    A split TClonesArray has the numbers of its objects.
    """
    if element is None or element.form != CLONES:
        return None
    if not element.is_top or element.class_name != b"TClonesArray":
        raise UnsupportedRecord("a TClonesArray in an object")
    return BranchType(Column.of(name, np.dtype(np.int32)), np.dtype(">i4"))


def _numbers(name: str, leaf: LeafMetadata, code: str) -> BranchType:
    dimensions = [int(size) for size in _DIMENSION.findall(leaf.title)] if _HAS_DIMENSIONS.match(leaf.title) else []
    if leaf.length > 1 and leaf.length != math.prod(dimensions):  # see `interpretation_of`
        dimensions = [leaf.length]
    stored: np.dtype[Any] = np.dtype(f">{code}")
    return BranchType(Column.of(name, stored.newbyteorder("="), tuple(dimensions), leaf.is_counted), stored)


def _collection(name: str, class_name: bytes) -> BranchType:
    """Return the type of a branch that holds a collection of numbers, a vector of vectors, or strings."""
    if class_name in _STRINGS:
        return _not_numeric(name, _STRINGS[class_name])
    template, arguments = template_of(class_name.decode())
    if template not in LISTS or not arguments:
        raise UnsupportedRecord("a class of objects that is not supported")
    if stored := _number(arguments[0]):
        return BranchType(Column.of(name, stored.newbyteorder("="), is_list=True), stored, _COLLECTION_HEADER)
    inner, its_arguments = template_of(arguments[0])
    stored = _number(its_arguments[0]) if template == inner == "vector" and its_arguments else None
    if stored is None:
        raise UnsupportedRecord("a class of collections that is not supported")
    column = Column(name, Kind.NESTED, stored.newbyteorder("="), 0)
    return BranchType(column, np.dtype(np.uint8), has_layout=KERNEL is not None)


def _number(name: str) -> np.dtype[Any] | None:
    number = None if _UNKNOWN_TO_UPROOT.fullmatch(name) else number_named(name)
    return number.stored if number else None


def _not_numeric(name: str, typename: str) -> BranchType:
    return BranchType(Column.unsupported(name, f"{typename}: not a number"), np.dtype(object), has_layout=False)
