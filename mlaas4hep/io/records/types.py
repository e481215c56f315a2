"""Describe the members of structs, using the descriptions of classes (TStreamerInfo) in a ROOT file.

    struct = class_struct(uproot_file, "TLorentzVector", has_header=True)
    [path for path, number in numbers_of(struct)]            # [("fP", "fX"), ("fP", "fY"), ("fP", "fZ"), ("fE",)]

It supports classes whose objects have a fixed number of numbers: numbers, arrays of numbers, base classes, nested
structs, std::pair and std::bitset. The two internal numbers of a TObject are not members. Any other class raises
`Undecodable` with the reason. `layout` decodes the bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from uproot import const

from mlaas4hep.io.root.packed import PACKED_LEAVES, Packing, packing_from

_BASIC = {
    const.kBool: "?",
    const.kChar: "i1",
    const.kUChar: "u1",
    const.kShort: "i2",
    const.kUShort: "u2",
    const.kInt: "i4",
    const.kCounter: "i4",
    const.kUInt: "u4",
    const.kBits: "u4",
    const.kLong: "i8",
    const.kLong64: "i8",
    const.kULong: "u8",
    const.kULong64: "u8",
    const.kFloat: "f4",
    const.kDouble: "f8",
}
"""NumPy type codes of ROOT's number types (TStreamerElement.fType)."""

_NAMED = {
    name: code
    for code, names in {
        "?": "bool, Bool_t",
        "i1": "char, signed char, Char_t, int8_t",
        "u1": "unsigned char, UChar_t, uint8_t",
        "i2": "short, Short_t, int16_t",
        "u2": "unsigned short, UShort_t, uint16_t",
        "i4": "int, Int_t, int32_t",
        "u4": "unsigned int, unsigned, UInt_t, uint32_t",
        "i8": "long, long long, Long_t, Long64_t, int64_t",
        "u8": "unsigned long, unsigned long long, ULong_t, ULong64_t, uint64_t",
        "f4": "float, Float_t",
        "f8": "double, Double_t",
    }.items()
    for name in names.split(", ")
}
"""NumPy type codes of C++ number types."""

LEAVES = {
    "TLeafO": "?", "TLeafB": "i1", "TLeafS": "i2", "TLeafI": "i4", "TLeafL": "i8", "TLeafG": "i8", "TLeafF": "f4",
    "TLeafD": "f8",
}  # fmt: skip
"""NumPy type codes of leaves."""

LISTS = frozenset(
    ("vector", "list", "forward_list", "deque", "set", "multiset", "unordered_set", "unordered_multiset", "RVec")
)
MAPS = frozenset(("map", "multimap", "unordered_map", "unordered_multimap"))

_NAMESPACE = re.compile(r"^(?:std::|ROOT::VecOps::)")
_NOT_STORED = -1
"""Type of a base class that is not written (TClass::IgnoreTObjectStreamer)."""
_MAX_DEPTH = 20
"""Maximum nesting depth of structs; only damaged descriptions exceed it."""


class Undecodable(Exception):
    """A struct has members that are not a fixed number of numbers, or its bytes do not match its description."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number, or an array of numbers of fixed shape.

    Attributes:
        stored: type in the file, with the shape of an array.
        dtype: type of a number in native byte order.
        shape: shape of the array; () for one number.
        packing: how the numbers are packed; None if they are not.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    packing: Packing | None = None

    @classmethod
    def plain(cls, code: str, shape: tuple[int, ...] = ()) -> Number:
        """Return numbers that are not packed, given NumPy's type code."""
        return cls(np.dtype((">" + code, shape)), np.dtype(code), shape)

    @classmethod
    def packed(cls, kind: int, comment: str, shape: tuple[int, ...]) -> Number:
        """Return Float16_t or Double32_t numbers."""
        packing = packing_from(kind, comment, shape)
        return cls(packing.interpretation.from_dtype, packing.dtype, shape, packing)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Decode bytes, uint8 (rows, bytes), into values of shape (rows, *shape)."""
        values = rows != 0 if self.dtype.kind == "b" else rows.view(self.stored.base)
        if self.packing:
            values = self.packing.unpack(values.reshape(len(rows), *self.stored.shape))
        return np.asarray(values.astype(self.dtype).reshape(len(rows), *self.shape))


@dataclass(frozen=True, slots=True)
class Constant:
    """Bytes that are the same in all objects."""

    content: bytes


@dataclass(frozen=True, slots=True)
class TObjectPart:
    """The stored part of a TObject: version, fUniqueID, fBits, and two more bytes if others refer to the object."""


@dataclass(frozen=True, slots=True)
class Field:
    """A member or a base class. Members of base classes and of unnamed fields count as members of the struct."""

    name: str
    content: Number | Constant | TObjectPart | Struct
    is_base: bool = False


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct or class.

    Attributes:
        name: name of the class.
        fields: members and base classes in the order in which they are stored.
        has_header: whether the number of bytes and the version of the class precede the members.
        version, checksum: version and checksum of the class, one of which the header contains; None: not checked.
    """

    name: str
    fields: tuple[Field, ...]
    has_header: bool = False
    version: int | None = None
    checksum: int | None = None

    @property
    def flat(self) -> tuple[Field, ...]:
        """Fields, with base classes replaced by their fields."""
        return tuple(
            inner
            for field in self.fields
            for inner in (field.content.flat if field.is_base and isinstance(field.content, Struct) else (field,))
        )


Content = Number | Constant | TObjectPart | Struct


def numbers_of(content: Content, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Number]]:
    """Yield the path of member names and the number, for each number in the order of storage."""
    if isinstance(content, Number):
        yield path, content
    elif isinstance(content, Struct):
        for field in content.fields:
            yield from numbers_of(field.content, (*path, field.name) if field.name and not field.is_base else path)


def template_of(name: str) -> tuple[str, list[str]]:
    """Return the name of a C++ template without its namespace, and its arguments; other types have no arguments."""
    name = name.strip()
    head, bracket, rest = name.partition("<")
    if not bracket or not rest.rstrip().endswith(">"):
        return name, []
    arguments, depth = [""], 0
    for letter in rest.rstrip()[:-1]:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += letter
    return _NAMESPACE.sub("", head.strip()), [argument.strip() for argument in arguments]


def number_named(name: str) -> Number | None:
    """Return the number for the name of a C++ type; None if it is not a number type."""
    code = _NAMED.get(name.strip())
    return Number.plain(code) if code else None


def bitset_struct(size: int) -> Struct:
    """Return the struct of a std::bitset: one bool per bit, the lowest bit first."""
    bits = Field("", Number.plain("?", (size,)))
    return Struct("bitset", (Field("", Constant(size.to_bytes(4, "big"))), bits), has_header=True)


def pair_struct(file: Any, first: str, second: str) -> Struct:
    """Return the struct of a std::pair, without a header."""
    numbers = number_named(first), number_named(second)
    name = f"pair<{first},{second}>"
    if file.streamer_named(name) is None and all(numbers):
        members = zip(("first", "second"), numbers, strict=True)
        return Struct(name, tuple(Field(name, number) for name, number in members if number))
    return class_struct(file, name, has_header=False)


def class_struct(file: Any, name: str, has_header: bool, version: int | str = "max", depth: int = 0) -> Struct:
    """Return the struct of a class that the file describes.

    Raises:
        Undecodable: the class is not described, or has members that are not a fixed number of numbers.
    """
    description = file.streamer_named(name, version)
    if description is None:
        number = f"version {version} of " if isinstance(version, int) else ""
        raise Undecodable(f"the file does not describe {number}the class {name}")
    if name == "TObject":
        return Struct(name, (Field("", TObjectPart()),))
    if depth > _MAX_DEPTH:
        raise Undecodable(f"the class {name} nests too deeply")
    fields = tuple(
        Field(element.name, element_content(file, element, depth), element.member("fType") == const.kBase)
        for element in description.elements
        if element.member("fType") != _NOT_STORED
    )
    return Struct(name, fields, has_header, description.class_version, description.member("fCheckSum"))


def element_content(file: Any, element: Any, depth: int = 0) -> Content:
    """Return the content of a member or a base class (TStreamerElement).

    Raise Undecodable if it is not a fixed number of numbers.
    """
    kind, type_name = int(element.member("fType")), str(element.typename)
    shape = tuple(int(size) for size in element.member("fMaxIndex")[: element.member("fArrayDim")])
    if shape and math.prod(shape) != element.member("fArrayLength"):
        raise Undecodable(f"its member '{element.name}' is an array of unknown length")
    if const.kOffsetL < kind < const.kOffsetP:  # uproot has subtracted it in most cases
        kind -= const.kOffsetL
    if kind in _BASIC:
        return Number.plain(_BASIC[kind], shape)
    if kind in (const.kFloat16, const.kDouble32):
        return Number.packed(kind, element.title, shape)
    if kind == const.kTObject:
        return TObjectPart()
    if shape:
        raise Undecodable(f"its member '{element.name}' is an array of {type_name}")
    if kind == const.kBase:
        return class_struct(file, element.name, True, getattr(element, "base_version", "max"), depth + 1)
    if kind in (const.kObject, const.kAny):
        return class_struct(file, type_name, True, depth=depth + 1)
    template, arguments = template_of(type_name)
    if template == "bitset" and arguments:
        return bitset_struct(int(arguments[0]))
    raise Undecodable(f"its member '{element.name}' is of type {type_name}")


def leaf_list(leaves: Sequence[Any]) -> Struct:
    """Return the struct of a branch with several leaves, like `px/F:py/F:n/I`, which are stored without padding.

    Raises:
        Undecodable: a leaf is text, or has a variable length.
    """
    for leaf in leaves:
        if leaf.member("fLeafCount") is not None:
            raise Undecodable(f"its leaf '{leaf.member('fName')}' has a variable length")
    return Struct("", tuple(Field(leaf.member("fName"), _leaf(leaf)) for leaf in leaves))


def _leaf(leaf: Any) -> Number:
    kind, length = leaf.classname, int(leaf.member("fLen"))
    shape = () if length == 1 and "[" not in str(leaf.member("fTitle")).split("/")[0] else (length,)
    if kind in PACKED_LEAVES:
        return Number.packed(PACKED_LEAVES[kind], leaf.member("fTitle"), shape)
    if kind not in LEAVES:
        raise Undecodable(f"its leaf '{leaf.member('fName')}' is {'text' if kind == 'TLeafC' else 'a ' + kind}")
    number = Number.plain(LEAVES[kind], shape)
    if leaf.member("fIsUnsigned") and number.dtype.kind == "i":
        return Number.plain(LEAVES[kind].replace("i", "u"), shape)
    return number


def with_class_name(struct: Struct) -> Struct:
    """Return a struct with the name of its class and a header before it, as a TBranchObject stores objects."""
    name = struct.name.encode()
    prefix = Constant(bytes([len(name)]) + name + b"\0")
    return Struct("", (Field("", prefix), Field("", replace(struct, has_header=True))))
