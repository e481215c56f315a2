"""Describe and decode branches of structs, given uproot's branches.

    record = record_of(tree["p"])                       # None: not a branch of structs
    decode(record, bytes_of_the_branch, [0, 1])         # the first two numbers of each struct

It supports branches with several leaves, objects (`TLorentzVector`), collections of objects, std::map, std::pair and
std::bitset, as branches of their own or as members of split objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from uproot import const
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from mlaas4hep.io.columns import Column, Jagged, Kind, Values
from mlaas4hep.io.records.layout import decode_collection, decode_items, decode_rows
from mlaas4hep.io.records.types import (
    LISTS,
    MAPS,
    Content,
    Undecodable,
    bitset_struct,
    class_struct,
    element_content,
    leaf_list,
    number_named,
    numbers_of,
    pair_struct,
    template_of,
    with_class_name,
)

_COLLECTION_HEADER = 10
"""Bytes before the numbers of a collection: number of bytes, version, number of numbers."""
_SPLIT = (2, 3, 4)
"""Values of TBranchElement's fType for branches whose members are sub-branches."""
_CLONES_MEMBER, _COLLECTION_MEMBER = 31, 41
"""Values of fType for branches that hold one member of all objects of a collection."""
_CUSTOM = -1
"""Value of fType for classes with a custom streamer, which writes the header."""


class Form(Enum):
    """Storage form of the structs of a branch."""

    ROWS = "one struct per entry"
    COLLECTION = "one collection per entry, with a header"
    ITEMS = "consecutive objects"


@dataclass(frozen=True, slots=True)
class Record:
    """Description of a branch of structs.

    Attributes:
        form: storage form of the structs.
        content: content of a struct.
        size: bytes per entry if the type has a fixed size; 0: the baskets contain offsets.
    """

    form: Form
    content: Content
    size: int = 0

    @property
    def interpretation(self) -> Any:
        """The uproot interpretation that reads the entries as bytes."""
        return AsDtype(np.dtype(("u1", (self.size,)))) if self.size else AsJagged(AsDtype("u1"))

    @property
    def raw(self) -> Column:
        """The bytes as a column."""
        kind = Kind.FIXED if self.size else Kind.JAGGED
        return Column("", kind, np.dtype(np.uint8), max(self.size, 1))


def record_of(branch: Any) -> Record | None:
    """Return the description of a branch of structs, or of collections of structs; None for other branches.

    Raises:
        Undecodable: the structs do not consist of a fixed number of numbers.
    """
    leaves = branch.member("fLeaves")
    if branch.classname == "TBranchElement":
        return _record_of_element(branch)
    if branch.classname == "TBranchObject":
        name = branch.member("fClassName")
        if name == "TClonesArray":
            return None
        return Record(Form.ROWS, with_class_name(class_struct(branch.file, name, True)))
    if len(leaves) < 2:
        return None
    content = leaf_list(leaves)
    return Record(Form.ROWS, content, sum(number.stored.itemsize for _, number in numbers_of(content)))


def _record_of_element(branch: Any) -> Record | None:
    kind, stored = branch.member("fType"), branch.member("fStreamerType")
    if kind in _SPLIT or branch.branches or const.kBase < stored < const.kObject:
        return None
    if branch.member("fID") < 0:
        return _record_of_container(branch.file, branch.member("fClassName")) or _record_of_class(branch)
    element = _element_of(branch)
    if element is None:
        return None
    if kind in (_CLONES_MEMBER, _COLLECTION_MEMBER):
        is_object = stored in (const.kBase, const.kObject, const.kAny)
        return Record(Form.ITEMS, element_content(branch.file, element)) if is_object else None
    if stored in (const.kBase, const.kObject, const.kAny):
        return Record(Form.ROWS, element_content(branch.file, element))
    return _record_of_container(branch.file, element.typename)


def _element_of(branch: Any) -> Any:
    """Return the description (TStreamerElement) of the member that a branch holds; None if there is none."""
    description = branch.file.streamer_named(branch.member("fClassName"), branch.member("fClassVersion"))
    elements = description.elements if description is not None else []
    return elements[branch.member("fID")] if branch.member("fID") < len(elements) else None


def _record_of_class(branch: Any) -> Record | None:
    """Return the record of a branch that holds a whole object."""
    name, version, checksum = (branch.member(f"f{key}") for key in ("ClassName", "ClassVersion", "CheckSum"))
    if number_named(name) or template_of(name)[0] in LISTS or branch.file.streamer_named(name) is None:
        return None
    struct = class_struct(branch.file, name, branch.member("fType") == _CUSTOM, version)
    if checksum and checksum != struct.checksum:
        raise Undecodable("the file describes another version of the class")
    return Record(Form.ROWS, struct)


def _record_of_container(file: Any, name: str) -> Record | None:
    """Return the record of a branch that holds a container of the standard library; None for other types."""
    template, arguments = template_of(name)
    if template in LISTS and arguments:
        return _record_of_list(file, arguments[0])
    if template in MAPS and len(arguments) > 1:
        return Record(Form.COLLECTION, pair_struct(file, *arguments[:2]))
    if template == "bitset" and arguments:
        return Record(Form.ROWS, bitset_struct(int(arguments[0])))
    if template == "pair" and len(arguments) == 2:
        return Record(Form.ROWS, pair_struct(file, *arguments))
    return None


def _record_of_list(file: Any, item: str) -> Record | None:
    template, arguments = template_of(item)
    if template == "pair" and len(arguments) == 2:
        return Record(Form.COLLECTION, pair_struct(file, *arguments))
    if number_named(item) or template in LISTS | MAPS or file.streamer_named(item) is None:
        return None
    return Record(Form.COLLECTION, class_struct(file, item, True))


def numbers_in(branch: Any) -> Any:
    """Return the uproot interpretation of a std::list, std::set etc. of numbers; None for other branches."""
    if branch.classname != "TBranchElement" or branch.branches:
        return None
    if branch.member("fID") < 0:
        name = branch.member("fClassName")
    elif branch.member("fStreamerType") < const.kSTL or branch.member("fType") in (_CLONES_MEMBER, _COLLECTION_MEMBER):
        return None
    else:
        element = _element_of(branch)
        name = element.typename if element is not None else ""
    template, arguments = template_of(name)
    number = number_named(arguments[0]) if template in LISTS - {"vector"} and arguments else None
    return AsJagged(AsDtype(number.stored), header_bytes=_COLLECTION_HEADER) if number else None


def class_of(branch: Any) -> str:
    """Return the name of the class that a branch holds, for messages."""
    name = str(branch.member("fClassName", none_if_missing=True) or "leaf list")
    if branch.classname == "TBranchElement" and branch.member("fID") >= 0 and (element := _element_of(branch)):
        name = element.name if element.member("fType") == const.kBase else str(element.typename)
    return name


def decode(record: Record, raw: Values, wanted: Sequence[int]) -> Mapping[int, Values]:
    """Return some numbers of the structs of a branch.

    Args:
        record: description of the branch.
        raw: the bytes of the branch: uint8 (entries, bytes), or lists of bytes.
        wanted: indices of the numbers, in the order of `numbers_of`.

    Raises:
        Undecodable: the bytes do not match the description of the struct.
    """
    if isinstance(raw, np.ndarray):
        rows, size = raw.shape
        starts = np.arange(rows, dtype=np.int64) * size
        return decode_rows(np.ascontiguousarray(raw).reshape(-1), starts, np.full(rows, size), record.content, wanted)
    assert isinstance(raw, Jagged)
    data, offsets = np.ascontiguousarray(raw.content), raw.offsets
    if record.form is Form.ROWS:
        return decode_rows(data, offsets[:-1], np.diff(offsets), record.content, wanted)
    if record.form is Form.COLLECTION:
        return decode_collection(data, offsets, record.content, wanted)
    return decode_items(data, offsets[:-1], offsets[1:], record.content, wanted)
