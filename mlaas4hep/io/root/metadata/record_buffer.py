"""Read the objects in a record of a ROOT file, one after the other.

    buffer = RecordBuffer(read_object(ranges, key), int(key.fKeylen))
    version, end = buffer.header((19, 20)); name, title = buffer.named()

The format: ROOT's TBufferFile::ReadObjectAny and TBufferFile::ReadVersion.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from typing import Any

_COUNT = 0x40000000
"""Flag of a word that is a number of bytes."""
_CLASS = 0x80000000
"""Flag of a tag that refers to an earlier class."""
_NEW_CLASS = 0xFFFFFFFF
_MAP_OFFSET = 2
"""Difference between a tag and the position that it refers to."""
_REFERENCED = 1 << 4
"""Flag of an object that others refer to, which has two more bytes."""
_MAX_SHORT = 254
"""Length of the longest string whose length is stored in one byte."""

_WORD = struct.Struct(">I")
_TAGGED = struct.Struct(">II")  # number of bytes, tag
_HEADER = struct.Struct(">IH")  # number of bytes, version
_NAMED = struct.Struct(">IHHIIB")  # _HEADER, TObject (version, fUniqueID, fBits), length of the name
_ARRAY = struct.Struct(">IHHIIBii")  # _NAMED without a name, fSize, fLowerBound


class UnsupportedRecord(Exception):
    """A record is damaged, or its format is not supported."""


class RecordBuffer:
    """A record with a current position, `at`. All methods raise an exception if the record is damaged."""

    def __init__(self, data: bytes, origin: int) -> None:
        """Start at the beginning of a record. `origin` is the length of its key: references include it."""
        self.data = data
        self.at = 0
        self._origin = origin
        self._classes: dict[int, bytes] = {}

    def object(self) -> tuple[int, bytes, int]:
        """Read the beginning of an object, a reference to an earlier one, or a null pointer.

        Returns:
            The identifier by which other objects refer to it, its class, and its end. If it is a reference, the
            identifier of the earlier object, and no class. If it is a null pointer, 0 and no class.
        """
        at = self.at
        count, tag = _TAGGED.unpack_from(self.data, at)
        if not count & _COUNT or count == _NEW_CLASS:
            if count >= _CLASS:
                raise UnsupportedRecord("an object without a length")
            self.at = at + 4
            return count, b"", at + 4
        end = at + 4 + (count & ~_COUNT)
        self.at = at + 8
        if tag == _NEW_CLASS:
            stop = self.data.index(b"\0", at + 8)
            kind = self._classes[at + 4 + self._origin + _MAP_OFFSET] = self.data[at + 8 : stop]
            self.at = stop + 1
        elif tag & _CLASS:
            kind = self._classes[tag & ~_CLASS]
        else:  # a reference, with a length in files of Go-HEP
            return tag, b"", end
        return at + self._origin + _MAP_OFFSET, kind, end

    def header(self, versions: Container[int]) -> tuple[int, int]:
        """Read the length and the version of a part; return the version, and the end of the part."""
        at = self.at
        count, version = _HEADER.unpack_from(self.data, at)
        if not count & _COUNT or version not in versions:
            raise UnsupportedRecord("an unsupported version")
        self.at = at + _HEADER.size
        return version, at + 4 + (count & ~_COUNT)

    def skip(self) -> None:
        """Skip a part that begins with its length."""
        (count,) = _WORD.unpack_from(self.data, self.at)
        if not count & _COUNT:
            raise UnsupportedRecord("a part without a length")
        self.at += 4 + (count & ~_COUNT)

    def named(self) -> tuple[bytes, bytes]:
        """Read a TNamed: name and title."""
        data, at = self.data, self.at
        count, version, _, _, bits, length = _NAMED.unpack_from(data, at)
        if not count & _COUNT or version != 1:
            raise UnsupportedRecord("an unsupported version")
        end = at + 4 + (count & ~_COUNT)
        at += _NAMED.size
        if bits & _REFERENCED or length > _MAX_SHORT:  # two bytes follow TObject; or four with the length
            self.at = at - 1 + (2 if bits & _REFERENCED else 0)
            name = self.string()
        else:
            self.at = at + length
            name = data[at : self.at]
        title = self.string()
        if self.at != end:
            raise UnsupportedRecord("a name of invalid length")
        return name, title

    def string(self) -> bytes:
        """Read a TString."""
        at = self.at + 1
        length = self.data[self.at]
        if length > _MAX_SHORT:
            (length,) = _WORD.unpack_from(self.data, at)
            at += 4
        self.at = at + length
        return self.data[at : self.at]

    def array(self) -> tuple[int, int]:
        """Read the beginning of a TObjArray without a name; return its number of objects, and its end."""
        at = self.at
        count, version, _, _, bits, length, size, _ = _ARRAY.unpack_from(self.data, at)
        end = at + 4 + (count & ~_COUNT)
        if not count & _COUNT or version != 3 or bits & _REFERENCED or length or size < 0 or end > len(self.data):
            raise UnsupportedRecord("an unsupported array")
        self.at = at + _ARRAY.size
        return size, end

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """Read numbers."""
        fields = form.unpack_from(self.data, self.at)
        self.at += form.size
        return fields
