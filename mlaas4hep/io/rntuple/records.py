"""The descriptions of fields and columns in the header and footer of an RNTuple.

    header = read_header(content); footer = read_footer(content, header.checksum)
    header.fields[0].name, header.columns[0].encoding

The format: "Header Envelope" and "Footer Envelope" in ROOT's RNTuple Binary Format Specification 1.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from mlaas4hep.io.rntuple.encodings import Encoding, UnsupportedRNTuple, encoding_of
from mlaas4hep.io.rntuple.envelopes import CHECKSUM, U32, U64, DamagedMetadata, Frames, Link

_FIELD = struct.Struct("<IIIHH")  # version of the field and of its type, parent, role, flags
_COLUMN = struct.Struct("<HHIHH")  # type, bits, field, flags, representation
_RANGE = struct.Struct("<dd")
_GROUP = struct.Struct("<QQI")  # first entry, number of entries, number of clusters

_REPETITIVE, _PROJECTED, _HAS_CHECKSUM = 1, 2, 4
_DEFERRED, _HAS_RANGE = 1, 2


class Role(IntEnum):
    """The role of a field."""

    LEAF = 0
    COLLECTION = 1
    RECORD = 2
    VARIANT = 3
    STREAMER = 4


_ROLES = tuple(Role)


class FieldRecord(NamedTuple):
    """Description of a field.

    Attributes:
        parent: number of the parent; its own number if it is a top-level field.
        role: see `Role`.
        name, type: name of the field and of its C++ type.
        repetition: numbers per array; 0 if the field is not an array.
        source: number of the field whose columns a projected field shows; its own number otherwise.
    """

    parent: int
    role: Role
    name: str
    type: bytes
    repetition: int
    source: int


class ColumnRecord(NamedTuple):
    """Description of a column.

    Attributes:
        encoding: how its pages are stored; None for the switch of a variant.
        field: number of its field.
        representation: number of the representation of the field that it belongs to; a cluster stores one of them.
        is_deferred: whether the field was added after the first entries.
    """

    encoding: Encoding | None
    field: int
    representation: int
    is_deferred: bool


@dataclass(slots=True)
class Schema:
    """The fields and columns of an RNTuple, in the order of their numbers."""

    fields: list[FieldRecord] = field(default_factory=list)
    columns: list[ColumnRecord] = field(default_factory=list)
    checksum: bytes = b""

    def extend(self, frames: Frames) -> None:
        """Read the fields and the columns of a header or of a schema extension."""
        for record in frames.records():
            self.fields.append(_field(record, len(self.fields)))
        for record in frames.records():
            self.columns.append(_column(record))
        for _ in range(2):  # alias columns, which projected fields have, too; and extra type information
            frames.items()


def read_header(content: bytes) -> Schema:
    """Parse the content of the header."""
    frames = Frames(content, U64.size, len(content) - CHECKSUM)
    _check_flags(frames)
    for _ in range(3):
        frames.text()  # name, description, program that wrote it
    schema = Schema(checksum=content[-CHECKSUM:])
    schema.extend(frames)
    return schema


def read_footer(content: bytes, schema: Schema) -> list[Link]:
    """Parse the content of the footer: extend the schema, and return the links to the page lists."""
    frames = Frames(content, U64.size, len(content) - CHECKSUM)
    _check_flags(frames)
    check_header(frames, schema)
    schema.extend(frames.record())
    links = []
    for group in frames.records():
        group.numbers(_GROUP)
        links.append(group.link())
    return links


def check_header(frames: Frames, schema: Schema) -> None:
    """Read the checksum of the header that an envelope belongs to; raise DamagedMetadata if it differs."""
    (checksum,) = frames.numbers(struct.Struct(f"{CHECKSUM}s"))
    if checksum != schema.checksum:
        raise DamagedMetadata("its header and its footer do not belong together")


def _check_flags(frames: Frames) -> None:
    if flags := frames.number(U64):
        raise UnsupportedRNTuple(f"unknown feature flags {flags:#x}")


def _field(record: Frames, number: int) -> FieldRecord:
    _, _, parent, role, flags = record.numbers(_FIELD)
    name, kind = record.text().decode(), record.text()
    repetition, source = 0, number
    if flags:
        record.text()  # another name of the type
        record.text()  # description
        repetition = record.number(U64) if flags & _REPETITIVE else 0
        source = record.number(U32) if flags & _PROJECTED else number
    if role >= len(_ROLES):
        raise UnsupportedRNTuple(f"field '{name}' has the unknown role {role}")
    if flags & ~(_REPETITIVE | _PROJECTED | _HAS_CHECKSUM):
        raise UnsupportedRNTuple(f"field '{name}' has the unknown flags {flags:#x}")
    return FieldRecord(parent, _ROLES[role], name, kind, repetition, source)


def _column(record: Frames) -> ColumnRecord:
    kind, bits, owner, flags, representation = record.numbers(_COLUMN)
    if flags & _DEFERRED:
        record.number(U64)  # its first element, which the page lists also contain
    low, high = record.numbers(_RANGE) if flags & _HAS_RANGE else (0.0, 0.0)
    return ColumnRecord(encoding_of(kind, bits, low, high), owner, representation, bool(flags & _DEFERRED))
